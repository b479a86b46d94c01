//! What the parts of the kernel cost: variants of its text beside plain kernels, in turn on one adapter.
//!
//! `cargo bench --bench kernels -- [LEN] [TURNS] [adam | rmsprop]`. What came of it is told in benches/NOTES.md.

use std::time::Instant;

use wgpu_optim::kernel::Work;
use wgpu_optim::plan::{Lanes, Places};
use wgpu_optim::rule::{Rule, Scalars, cast};
use wgpu_optim::{Adam, Chain, RmsProp, kernel, wgpu};

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
    places: Places,
    binds: Binds,
}

#[derive(Clone, Copy, PartialEq)]
enum Binds {
    /// As the optimizer binds them.
    Step,
    /// Parameters, gradients, each moment a buffer, and a uniform.
    Plain,
    /// Four buffers.
    Stream,
}

/// A rule whose kernel is taken apart.
struct Subject {
    text: fn(Lanes) -> String,
    overrides: fn(Places) -> Vec<(String, f64)>,
    hyper: Vec<f32>,
    /// The formula and an index, nothing else, and its scalars.
    plain: &'static str,
    scalars: [f32; 8],
    moments: usize,
}

impl Subject {
    fn named(name: &str) -> Option<Self> {
        match name {
            "adam" => {
                let scalars = [0.1, 0.999, 0.001, 1e-3, 1e-8, 0.0, 0.0, 0.0];
                Some(Self::of(
                    &Adam::PYTORCH,
                    |places| overrides(&Adam::PYTORCH, places),
                    (include_str!("plain/adam.wgsl"), scalars, 2),
                ))
            }
            "rmsprop" => {
                let scalars = [0.99, 0.01, 1e-2, 1e-8, 0.0, 0.0, 0.0, 0.0];
                let plain = (include_str!("plain/rmsprop.wgsl"), scalars, 1);
                Some(Self::of(&RmsProp::PYTORCH, |places| overrides(&RmsProp::PYTORCH, places), plain))
            }
            _ => None,
        }
    }

    fn of<R: Rule>(
        settings: &R,
        overrides: fn(Places) -> Vec<(String, f64)>,
        (plain, scalars, moments): (&'static str, [f32; 8], usize),
    ) -> Self {
        let hyper: R::Hyper<f32> = cast(&settings.fold(10));
        Self {
            text: |lanes| kernel::text::<R>(Work::Step, lanes),
            overrides,
            hyper: hyper.fields(),
            plain,
            scalars,
            moments,
        }
    }

    /// Arrays that are read, and those that are written.
    fn arrays(&self) -> usize {
        2 + self.moments + 1 + self.moments
    }

    fn variants(&self) -> Vec<Variant> {
        let quads = Variant {
            name: "the step",
            text: (self.text)(Lanes::Quads),
            entry: "step",
            workgroup: WORKGROUP,
            elements: 4,
            places: Places::Origin,
            binds: Binds::Step,
        };
        let of = |name, text: String| Variant { name, text, ..quads.clone() };
        let stream = of("stream of four and three", include_str!("../shaders/yardstick.wgsl").into());
        let mut variants = vec![
            Variant { entry: "stream", binds: Binds::Stream, ..stream },
            Variant { binds: Binds::Plain, ..of("plain, a buffer for each moment", self.plain.into()) },
            quads.clone(),
            Variant { places: Places::Uniform, ..of("a stretch that may start anywhere", quads.text.clone()) },
            Variant { places: Places::Table, ..of("places from the table", quads.text.clone()) },
            of("parameters loaded and stored first", params_first(&quads.text)),
            of("scalars as constants", constants(&quads.text, &self.hyper)),
            of("scalars where they lie", in_place(&quads.text)),
            of("scalars by row of a storage buffer", by_row(&quads.text)),
            Variant { places: Places::Uniform, ..of("places and scalars by rows", chained(&by_row(&quads.text))) },
            Variant { elements: 1, ..of("by words", (self.text)(Lanes::Words)) },
            Variant { elements: 8, ..of("two quads an invocation", several(&quads.text, 2)) },
            Variant { elements: 16, ..of("four quads an invocation", several(&quads.text, 4)) },
            Variant { workgroup: 64, ..of("workgroup of 64", quads.text.clone()) },
            Variant { workgroup: 128, ..of("workgroup of 128", quads.text.clone()) },
        ];
        if quads.text.contains("HAS_LOW_BETA1);") {
            variants.push(of("terms by select, not by switch", selects(&quads.text)));
        }
        variants
    }
}

fn overrides<R: Rule>(settings: &R, places: Places) -> Vec<(String, f64)> {
    kernel::overrides(Work::Step, settings, &Chain::default(), places)
}

/// One piece of a text in place of another, which must be there.
fn swap(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "the kernel has no {from:?}");
    text.replace(from, to)
}

/// Scalars that the compiler knows.
fn constants(text: &str, hyper: &[f32]) -> String {
    let values: Vec<String> = hyper.iter().map(|x| format!("{x:e}f")).collect();
    swap(text, "update(hyper(),", &format!("update(Hyper({}),", values.join(", ")))
}

/// Parameters before gradients and moments, on the way in and out.
fn params_first(text: &str) -> String {
    let load = "    let p0 = load_params(at);\n";
    let text =
        swap(&swap(text, load, ""), "    let g0 = load_grads(at);\n", &format!("{load}    let g0 = load_grads(at);\n"));
    let store = "    store_params(at, p);\n";
    swap(&swap(&text, store, ""), "    // </update>\n", &format!("    // </update>\n{store}"))
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

/// A variant that is ready to run.
struct Ready {
    name: &'static str,
    pipeline: wgpu::ComputePipeline,
    groups: Vec<wgpu::BindGroup>,
    grid: (u32, u32),
    /// Arrays that it moves.
    arrays: usize,
    seconds: Vec<f64>,
}

struct Bench {
    subject: Subject,
    device: wgpu::Device,
    queue: wgpu::Queue,
    len: u32,
    /// Parameters, gradients, two moments, and both as planes.
    arrays: [wgpu::Buffer; 5],
}

impl Bench {
    fn new(adapter: &wgpu::Adapter, subject: Subject, len: u32) -> Self {
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
        Self { subject, device, queue, len, arrays }
    }

    fn ready(&self, variant: &Variant) -> Ready {
        let label = Some(variant.name);
        let source = wgpu::ShaderSource::Wgsl(variant.text.clone().into());
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
        let own = (self.subject.overrides)(variant.places);
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
            arrays: if variant.binds == Binds::Stream { 7 } else { self.subject.arrays() },
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
                let scalars = self.words(&self.subject.scalars.map(f32::to_bits));
                let moments = [first, second].into_iter().take(self.subject.moments);
                let all = [params, grads].into_iter().chain(moments).chain([scalars.as_entire_binding()]);
                vec![self.group(pipeline, 0, all.collect())]
            }
            Binds::Step => {
                let lane = if variant.elements == 1 { 1 } else { 4 };
                let lanes = self.len / lane;
                let run = self.words(&[0, groups, width, stride(self.len) as u32 / lane, 0, 0, 0, lanes, 0, 0, 0, 0]);
                let places = self.words(&table(variant, groups, lanes));
                let mut scalars: Vec<u32> = self.subject.hyper.iter().map(|x| x.to_bits()).collect();
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
        Places::Table => (0..groups).flat_map(place).collect(),
        _ => vec![0; 4 * groups as usize],
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

fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut number = |default| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (len, turns) = (number(4 << 20), number(15));
    let rule = arguments.next().unwrap_or_else(|| "adam".into());
    let subject = Subject::named(&rule).ok_or(format!("{rule} is neither adam nor rmsprop"))?;
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    let adapters = pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(wgpu::Backends::all()));
    let adapter = adapters.first().ok_or("no adapter")?;
    let info = adapter.get_info();
    println!("{} ({}), {rule}, {len} elements, {turns} turns", info.name, info.backend);
    println!("{:<40}{:>12} {:>8} {:>12} {:>8}", "", "median ms", "speed", "least ms", "speed");
    let bench = Bench::new(adapter, subject, len & !3);
    let mut all: Vec<Ready> = bench.subject.variants().iter().map(|variant| bench.ready(variant)).collect();
    all.iter_mut().for_each(|ready| bench.run(ready));
    all.iter_mut().for_each(|ready| ready.seconds.clear());
    for _ in 0..turns {
        all.iter_mut().for_each(|ready| bench.run(ready));
    }
    let stream = all[0].seconds.clone();
    for Ready { name, arrays, seconds, .. } in all {
        // Bytes a second beside those of the stream.
        let speed = |stream: f64, own: f64| arrays as f64 / 7.0 * stream / own;
        let median_speed = median(stream.iter().zip(&seconds).map(|(&stream, &own)| speed(stream, own)).collect());
        let (least, ms) = (least(&seconds), median(seconds) * 1e3);
        let best = speed(self::least(&stream), least);
        println!("{name:<40}{ms:>12.3} {median_speed:>8.3} {:>12.3} {best:>8.3}", least * 1e3);
    }
    Ok(())
}

/// What nothing beside it has slowed down.
fn least(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(f64::INFINITY, f64::min)
}
