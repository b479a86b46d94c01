//! What the parts of the kernel cost: variants of its text beside plain kernels, in turn on one adapter.
//!
//! `cargo bench --bench kernels -- [LEN] [TURNS]`. What came of it is told in benches/NOTES.md.

use std::time::Instant;

use wgpu_optim::kernel::Work;
use wgpu_optim::plan::Lanes;
use wgpu_optim::rule::{Rule, Scalars, cast};
use wgpu_optim::{Adam, Chain, kernel, wgpu};

/// Invocations of a workgroup, unless a variant says otherwise.
const WORKGROUP: u32 = 256;

/// A kernel to be timed.
#[derive(Clone)]
struct Variant {
    name: &'static str,
    text: String,
    entry: &'static str,
    workgroup: u32,
    /// Elements of an invocation.
    elements: u32,
    /// Find places in the table.
    places: bool,
    binds: Binds,
}

#[derive(Clone, Copy, PartialEq)]
enum Binds {
    /// As the optimizer binds them.
    Step,
    /// Parameters, gradients, two moments, each a buffer, and a uniform.
    Plain,
    /// The same without the uniform.
    Stream,
}

fn variants() -> Vec<Variant> {
    let quads = Variant {
        name: "the step",
        text: kernel::text::<Adam>(Work::Step, Lanes::Quads),
        entry: "step",
        workgroup: WORKGROUP,
        elements: 4,
        places: false,
        binds: Binds::Step,
    };
    let of = |name, text: String| Variant { name, text, ..quads.clone() };
    let stream = of("stream of four and three", include_str!("../shaders/yardstick.wgsl").into());
    vec![
        Variant { entry: "stream", binds: Binds::Stream, ..stream },
        Variant { binds: Binds::Plain, ..of("plain Adam, a buffer for each moment", PLAIN.into()) },
        quads.clone(),
        Variant { places: true, ..of("places from the table", quads.text.clone()) },
        of("scalars as constants", constants(&quads.text)),
        of("scalars where they lie", in_place(&quads.text)),
        of("scalars by row of a storage buffer", by_row(&quads.text)),
        of("places and scalars by rows", chained(&by_row(&quads.text))),
        of("terms by select, not by switch", selects(&quads.text)),
        Variant { elements: 1, ..of("by words", kernel::text::<Adam>(Work::Step, Lanes::Words)) },
        Variant { elements: 8, ..of("two quads an invocation", several(&quads.text, 2)) },
        Variant { elements: 16, ..of("four quads an invocation", several(&quads.text, 4)) },
        Variant { workgroup: 64, ..of("workgroup of 64", quads.text.clone()) },
        Variant { workgroup: 128, ..of("workgroup of 128", quads.text.clone()) },
    ]
}

/// One piece of a text in place of another, which must be there.
fn swap(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "the kernel has no {from:?}");
    text.replace(from, to)
}

fn hyper() -> Vec<f32> {
    let h: <Adam as Rule>::Hyper<f32> = cast(&Adam::PYTORCH.fold(10));
    h.fields()
}

/// Scalars that the compiler knows.
fn constants(text: &str) -> String {
    let values: Vec<String> = hyper().iter().map(|x| format!("{x:e}f")).collect();
    swap(text, "update(hyper(),", &format!("update(Hyper({}),", values.join(", ")))
}

/// Scalars read one by one from the uniform, and not handed over as a struct.
fn in_place(text: &str) -> String {
    let text = swap(text, "var<uniform> scalars: Hyper", "var<uniform> h: Hyper");
    let text = swap(&swap(&text, "return scalars;", "return h;"), "fn update(h: Hyper, at: At)", "fn update(at: At)");
    swap(&text, "update(hyper(), at)", "update(at)")
}

/// Scalars in a storage buffer, by the row of a class.
fn by_row(text: &str) -> String {
    let bound = "@group(1) @binding(0) var<storage, read> scalars: array<Hyper>;";
    let text = swap(text, "@group(1) @binding(0) var<uniform> scalars: Hyper;", bound);
    swap(&text, "return scalars;", "return scalars[places[0].y];")
}

/// A place by the segment of a workgroup, and its row of scalars by that.
fn chained(text: &str) -> String {
    let found = "row = places[places[index].y].z; let first = place(index);";
    let text = swap(text, "let first = place(index);", found);
    swap(&text, "return scalars[places[0].y];", "return scalars[row];") + "var<private> row: u32;\n"
}

/// Terms that are off, computed and not chosen.
fn selects(text: &str) -> String {
    let text = swap(text, "h.l2 * p0, HAS_L2)", "h.l2 * p0, h.l2 > 0.0)");
    let text = swap(&text, "+ u, HAS_DECAY)", "+ u, h.decay > 0.0)");
    let text = swap(&text, "w + h.root, HAS_ROOT)", "w + h.root, h.root >= 0.0)");
    swap(&text, "HAS_LOW_BETA1);\n", "h.beta1 < h.one_minus_beta1);\n")
}

/// More than one quad for each invocation, a workgroup apart.
fn several(text: &str, count: u32) -> String {
    let start = format!("let start = index * WORKGROUP * {count}u + local;");
    let text = swap(text, "let i = lane(index, local);", &start);
    let from = text.find("    if has(index, i, first.w)").expect("a guard");
    let end = from + text[from..].find("\n}").expect("an end");
    let one = |k: u32| {
        format!(
            "    {{ let i = start + {k}u * WORKGROUP; if i < first.w {{ \
             update(hyper(), At(first.x + i, first.y + i, first.z + i)); }} }}\n"
        )
    };
    format!("{}{}{}", &text[..from], (0..count).map(one).collect::<String>(), &text[end..])
}

const PLAIN: &str = "
struct Scalars { beta1: f32, beta2: f32, grad: f32, step: f32, root: f32, eps: f32 }
@group(0) @binding(0) var<storage, read_write> params: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> grads: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> first: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> second: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> h: Scalars;
override WORKGROUP: u32 = 256u;
@compute @workgroup_size(WORKGROUP)
fn step(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.y * groups.x * WORKGROUP + id.x;
    if i < arrayLength(&params) {
        let g = grads[i];
        let m = first[i] + h.beta1 * (g - first[i]);
        let v = h.beta2 * second[i] + (h.grad * g) * g;
        first[i] = m;
        second[i] = v;
        params[i] = params[i] - h.step * (m / (h.root * sqrt(v) + h.eps));
    }
}
";

/// A variant that is ready to run.
struct Ready {
    name: &'static str,
    pipeline: wgpu::ComputePipeline,
    groups: Vec<wgpu::BindGroup>,
    grid: (u32, u32),
    seconds: Vec<f64>,
}

struct Bench {
    device: wgpu::Device,
    queue: wgpu::Queue,
    len: u32,
    /// Parameters, gradients, two moments, and both as planes.
    arrays: [wgpu::Buffer; 5],
}

impl Bench {
    fn new(adapter: &wgpu::Adapter, len: u32) -> Self {
        let required_limits = wgpu_optim::required_limits(adapter);
        let descriptor = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a device");
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        // Of lengths that are no power of two, so that an allocator does not lay them a power of two apart.
        let array = |words: u64| {
            let (label, size) = (None, words * 4);
            device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
        };
        let one = u64::from(len);
        let arrays = [one, one + 1088, one + 2 * 1088, one + 3 * 1088, 2 * stride(len)].map(array);
        let values: Vec<f32> = (0..len).map(|i| 0.001 * ((i % 89) as f32 - 44.5)).collect();
        queue.write_buffer(&arrays[1], 0, bytemuck::cast_slice(&values));
        Self { device, queue, len, arrays }
    }

    fn ready(&self, variant: &Variant) -> Ready {
        let label = Some(variant.name);
        let source = wgpu::ShaderSource::Wgsl(variant.text.clone().into());
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
        let own = kernel::overrides(Work::Step, &Adam::PYTORCH, &Chain::default(), variant.places);
        let own = own.iter().filter(|(name, _)| variant.binds == Binds::Step && name != "WORKGROUP");
        let mut constants: Vec<(&str, f64)> = own.map(|(name, value)| (name.as_str(), *value)).collect();
        if variant.binds != Binds::Stream {
            constants.push(("WORKGROUP", f64::from(variant.workgroup)));
        }
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: None,
            module: &module,
            entry_point: Some(variant.entry),
            compilation_options: wgpu::PipelineCompilationOptions { constants: &constants, ..Default::default() },
            cache: None,
        });
        let groups = (self.len / variant.elements).div_ceil(variant.workgroup);
        let width = groups.min(65_535);
        let bound = self.bind(variant, &pipeline, groups, width);
        Ready {
            name: variant.name,
            pipeline,
            groups: bound,
            grid: (width, groups.div_ceil(width)),
            seconds: Vec::new(),
        }
    }

    fn bind(
        &self,
        variant: &Variant,
        pipeline: &wgpu::ComputePipeline,
        groups: u32,
        width: u32,
    ) -> Vec<wgpu::BindGroup> {
        let all = std::num::NonZeroU64::new(u64::from(self.len) * 4);
        let caller =
            [0, 1, 2, 3].map(|array| wgpu::BufferBinding { buffer: &self.arrays[array], offset: 0, size: all });
        let [params, grads, first, second] = caller.map(wgpu::BindingResource::Buffer);
        match variant.binds {
            Binds::Stream => vec![self.group(pipeline, 0, vec![params, grads, first, second])],
            Binds::Plain => {
                let scalars = self.words(&[0.1f32, 0.999, 0.001, 1e-3, 1.0, 1e-8, 0.0, 0.0].map(f32::to_bits));
                let all = vec![params, grads, first, second, scalars.as_entire_binding()];
                vec![self.group(pipeline, 0, all)]
            }
            Binds::Step => {
                let lane = if variant.elements == 1 { 1 } else { 4 };
                let lanes = self.len / lane;
                let run = self.words(&[0, groups, width, stride(self.len) as u32 / lane, 0, 0, 0, lanes]);
                let places = self.words(&table(variant, groups, lanes));
                let mut scalars: Vec<u32> = hyper().iter().map(|x| x.to_bits()).collect();
                scalars.resize(scalars.len().next_multiple_of(4), 0);
                let scalars = self.words(&scalars);
                let state = self.arrays[4].as_entire_binding();
                let all = vec![params, grads, state, places.as_entire_binding(), run.as_entire_binding()];
                let mut groups = vec![self.group(pipeline, 0, all)];
                if !variant.text.contains("update(Hyper(") {
                    groups.push(self.group(pipeline, 1, vec![scalars.as_entire_binding()]));
                }
                groups
            }
        }
    }

    fn group(&self, pipeline: &wgpu::ComputePipeline, at: u32, all: Vec<wgpu::BindingResource<'_>>) -> wgpu::BindGroup {
        let entry = |(binding, resource)| wgpu::BindGroupEntry { binding, resource };
        let entries: Vec<_> = (0..).zip(all).map(entry).collect();
        let layout = &pipeline.get_bind_group_layout(at);
        self.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
    }

    fn words(&self, words: &[u32]) -> wgpu::Buffer {
        let (label, size) = (None, words.len() as u64 * 4);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let buffer =
            self.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false });
        self.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(words));
        buffer
    }

    fn run(&self, ready: &mut Ready) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&ready.pipeline);
            for (at, group) in (0..).zip(&ready.groups) {
                pass.set_bind_group(at, group, &[]);
            }
            pass.dispatch_workgroups(ready.grid.0, ready.grid.1, 1);
        }
        let commands = encoder.finish();
        let start = Instant::now();
        self.queue.submit([commands]);
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("an answer");
        ready.seconds.push(start.elapsed().as_secs_f64());
    }
}

/// A place for each workgroup; the chained variant finds all it reads in zeros.
fn table(variant: &Variant, groups: u32, lanes: u32) -> Vec<u32> {
    let place = |group: u32| {
        let first = group * variant.workgroup;
        [first, first, first, variant.workgroup.min(lanes - first)]
    };
    match variant.places {
        true => (0..groups).flat_map(place).collect(),
        false => vec![0; 4 * groups as usize],
    }
}

/// Elements from one plane of state to the next, off a power of two.
fn stride(len: u32) -> u64 {
    u64::from(len) + 1024
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut number = |default| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (len, turns) = (number(4 << 20), number(15));
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    let adapters = pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(wgpu::Backends::all()));
    let Some(adapter) = adapters.first() else {
        println!("no adapter");
        return;
    };
    let info = adapter.get_info();
    println!("{} ({}), {len} elements, {turns} turns", info.name, info.backend);
    println!("{:<40}{:>12} {:>8}", "", "ms", "speed");
    let bench = Bench::new(adapter, len & !3);
    let mut all: Vec<Ready> = variants().iter().map(|variant| bench.ready(variant)).collect();
    all.iter_mut().for_each(|ready| bench.run(ready));
    all.iter_mut().for_each(|ready| ready.seconds.clear());
    for _ in 0..turns {
        all.iter_mut().for_each(|ready| bench.run(ready));
    }
    let first = all[0].seconds.clone();
    for ready in all {
        let speed = median(first.iter().zip(&ready.seconds).map(|(first, own)| first / own).collect());
        println!("{:<40}{:>12.3} {speed:>8.2}", ready.name, median(ready.seconds) * 1e3);
    }
}
