//! The shaders of formats against Rust, by bits: kernel.wgsl calls each function over an array of words.

use wgpu::util::DeviceExt;
use wgpu_optim::format::blocks::{decode_q8, encode_q8};
use wgpu_optim::format::halves::{from_bf16, from_f16, to_bf16, to_f16};
use wgpu_optim::format::noise::{noise, stream};
use wgpu_optim::wgsl::U32;
use wgpu_optim::{BufferRange, readback, wgpu};

use crate::spread;
use crate::support::{self, Gpu};

/// What the kernel is given beside words.
#[derive(Clone, Copy)]
struct Job {
    scale: f32,
    keys: [u32; 3],
}

const JOB: Job = Job { scale: 1.0, keys: [0x1234_5678, 0x9abc_def0, 3] };

impl Job {
    fn words(self) -> [u32; 4] {
        let [step, tensor, what] = self.keys;
        [self.scale.to_bits(), step, tensor, what]
    }

    fn noise(self, element: usize) -> U32 {
        let [step, tensor, what] = self.keys.map(U32);
        noise(stream(step, tensor, what), U32(element as u32))
    }

    /// What Rust answers, by the numbers that kernel.wgsl has.
    fn answer(self, kind: u32, word: u32, element: usize) -> u32 {
        let (x, none, chance, scale) = (U32(word), U32(0), self.noise(element), self.scale);
        let number = f32::from_bits(word);
        match kind {
            0 => to_bf16(x, none, false).0,
            1 => to_bf16(x, chance, true).0,
            2 => from_bf16(x).0,
            3 => to_f16(x, none, false).0,
            4 => to_f16(x, chance, true).0,
            5 => from_f16(x).0,
            6 => chance.0,
            7 => encode_q8(number, scale, false, false).0,
            8 => encode_q8(number, scale, true, false).0,
            9 => encode_q8(number, scale, true, true).0,
            10 => decode_q8(x, scale, false).to_bits(),
            11 => decode_q8(x, scale, true).to_bits(),
            _ => panic!("no kind {kind}"),
        }
    }
}

fn text() -> String {
    [
        include_str!("../../shaders/format/halves.wgsl"),
        include_str!("../../shaders/format/noise.wgsl"),
        include_str!("../../shaders/format/blocks.wgsl"),
        include_str!("kernel.wgsl"),
    ]
    .join("\n")
}

/// The answers of the device.
fn device_answers(gpu: &Gpu, kind: u32, job: Job, words: &[u32]) -> Vec<u32> {
    let Gpu { device, queue } = gpu;
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("formats"),
        source: wgpu::ShaderSource::Wgsl(text().into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("formats"),
        layout: None,
        module: &module,
        entry_point: Some("answer_all"),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &[("KIND", kind.into())],
            ..Default::default()
        },
        cache: None,
    });
    let buffer = |contents: &[u32], usage| {
        let contents = bytemuck::cast_slice(contents);
        device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents, usage })
    };
    let answered = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let buffers = [
        buffer(words, wgpu::BufferUsages::STORAGE),
        buffer(&vec![0xdead_beef; words.len()], answered),
        buffer(&job.words(), wgpu::BufferUsages::UNIFORM),
    ];
    let entry = |(binding, buffer): (usize, &wgpu::Buffer)| (binding as u32, buffer.clone());
    let bound: Vec<(u32, wgpu::Buffer)> = buffers.iter().enumerate().map(entry).collect();
    let entries: Vec<wgpu::BindGroupEntry<'_>> = bound
        .iter()
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding: *binding, resource: buffer.as_entire_binding() })
        .collect();
    let layout = pipeline.get_bind_group_layout(0);
    let group =
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(words.len().div_ceil(256) as u32, 1, 1);
    drop(pass);
    queue.submit([encoder.finish()]);
    let bytes = readback::download_blocking(device, queue, &BufferRange::from(&buffers[1])).unwrap();
    bytemuck::pod_collect_to_vec(&bytes)
}

/// (word, the device's answer, Rust's) for each word.
fn answers(gpu: &Gpu, kind: u32, job: Job, words: &[u32]) -> Vec<(u32, u32, u32)> {
    let device = device_answers(gpu, kind, job, words);
    assert_eq!(device.len(), words.len());
    let both = |(element, (&word, device))| (word, device, job.answer(kind, word, element));
    words.iter().zip(device).enumerate().map(both).collect()
}

/// Numbers of every kind, in pieces that fit a grid.
fn all_numbers() -> Vec<Vec<u32>> {
    let chance = (0..1 << 18).map(|i| noise(U32(3), U32(i)).0);
    let words: Vec<u32> = spread::words().into_iter().chain(chance).collect();
    words.chunks(1 << 18).map(<[u32]>::to_vec).collect()
}

#[test]
fn the_device_rounds_to_16_bits_as_rust_does() {
    let Some(gpu) = support::gpu() else { return };
    for kind in [0, 1, 3, 4, 6] {
        for words in all_numbers() {
            for (word, device, ours) in answers(&gpu, kind, JOB, &words) {
                assert_eq!(device, ours, "kind {kind}: {word:#010x} became {device:#06x}, in Rust {ours:#06x}");
            }
        }
    }
}

#[test]
fn the_device_reads_every_code_of_16_bits_as_rust_does() {
    let Some(gpu) = support::gpu() else { return };
    let codes: Vec<u32> = (0..=0xffff).collect();
    for kind in [2, 5] {
        for (code, device, ours) in answers(&gpu, kind, JOB, &codes) {
            assert_eq!(device, ours, "kind {kind}: {code:#06x} is {device:#010x}, in Rust {ours:#010x}");
        }
    }
}

/// Codes of 8 bits are those of Rust, or, as a device divides as it likes, a neighbour for one number in ten thousand.
#[test]
fn the_device_rounds_to_8_bits_as_rust_does() {
    let Some(gpu) = support::gpu() else { return };
    for scale in [1.0f32, 0.37, 3e-20, 7e30, 0.0, f32::from_bits(77), f32::INFINITY, f32::NAN] {
        let job = Job { scale, ..JOB };
        let words = shares(scale);
        for kind in [7, 8, 9] {
            let all = answers(&gpu, kind, job, &words);
            let others: Vec<_> = all.iter().filter(|(_, device, ours)| device != ours).collect();
            println!("kind {kind}, scale {scale:e}: {} of {} codes are not Rust's", others.len(), all.len());
            for (word, device, ours) in &others {
                let x = f32::from_bits(*word);
                assert_eq!(
                    device.abs_diff(*ours),
                    1,
                    "kind {kind}: {x:e} by {scale:e} became {device}, in Rust {ours}"
                );
            }
            assert!(others.len() * 10_000 <= all.len(), "kind {kind}, scale {scale:e}: {} codes differ", others.len());
        }
    }
}

/// Numbers of a block of this scale: shares of it over the whole map, of both signs, 0 and a subnormal.
fn shares(scale: f32) -> Vec<u32> {
    let share = (1e-8f32.to_bits()..=1f32.to_bits()).step_by(1009).map(f32::from_bits);
    let with_ends = share.chain([0.0, 1.0]).flat_map(|share| [share * scale, -share * scale]);
    with_ends.chain([f32::from_bits(1)]).map(f32::to_bits).collect()
}

/// Entries are those of Rust to 4 ULP: a device may fuse what Rust rounds twice. 0 and the scale are exact.
#[test]
fn the_device_reads_every_code_of_8_bits_as_rust_does() {
    let Some(gpu) = support::gpu() else { return };
    let codes: Vec<u32> = (0..256).collect();
    for scale in [1.0f32, 0.37, 3e-20, 7e30, 0.0, f32::INFINITY, f32::NAN] {
        let job = Job { scale, ..JOB };
        for (kind, zero) in [(10, 127), (11, 0)] {
            let mut worst = 0;
            for (code, device, ours) in answers(&gpu, kind, job, &codes) {
                let exact = code == zero || code == 255 || !scale.is_finite();
                // A 0 may have either sign, of which nothing hangs.
                let ulps = if (device | ours) << 1 == 0 { 0 } else { device.abs_diff(ours) };
                worst = worst.max(ulps);
                assert!(ulps <= if exact { 0 } else { 4 }, "kind {kind}: {code} by {scale:e}: {device:#x}, {ours:#x}");
            }
            println!("kind {kind}, scale {scale:e}: {worst} ULP at most");
        }
    }
}
