// Elements of 16 bits, which may share words with their neighbours: stored as words/halves.wgsl says.

@group(0) @binding(0) var<storage, read> sources: array<u32>;
@group(0) @binding(1) var<storage, read_write> targets: array<atomic<u32>>;

fn move_one(source: u32, to: u32) {
    let code = (sources[source / 2u] >> (16u * (source & 1u))) & 0xffffu;
    let word = atomicLoad(&targets[to / 2u]);
    atomicXor(&targets[to / 2u], flips(word, to, code));
}
