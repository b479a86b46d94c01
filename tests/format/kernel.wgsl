// The functions of shaders/format/ over an array of words, for tests/format/gpu.rs, which lists the kinds.

override KIND: u32 = 0u;

struct Job {
    scale: f32,
    step: u32,
    tensor: u32,
    what: u32,
}

@group(0) @binding(0) var<storage, read> words: array<u32>;
@group(0) @binding(1) var<storage, read_write> answers: array<u32>;
@group(0) @binding(2) var<uniform> job: Job;

fn answer(x: u32, element: u32) -> u32 {
    let chance = noise(stream(job.step, job.tensor, job.what), element);
    switch KIND {
        case 0u: { return to_bf16(x, 0u, false); }
        case 1u: { return to_bf16(x, chance, true); }
        case 2u: { return from_bf16(x); }
        case 3u: { return to_f16(x, 0u, false); }
        case 4u: { return to_f16(x, chance, true); }
        case 5u: { return from_f16(x); }
        case 6u: { return chance; }
        case 7u: { return encode_q8(bitcast<f32>(x), job.scale, false, false); }
        case 8u: { return encode_q8(bitcast<f32>(x), job.scale, true, false); }
        case 9u: { return encode_q8(bitcast<f32>(x), job.scale, true, true); }
        case 10u: { return bitcast<u32>(decode_q8(x, job.scale, false)); }
        case 11u: { return bitcast<u32>(decode_q8(x, job.scale, true)); }
        default: { return 0xffffffffu; }
    }
}

@compute @workgroup_size(256)
fn answer_all(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group.x * 256u + local;
    if i < arrayLength(&words) {
        answers[i] = answer(words[i], i);
    }
}
