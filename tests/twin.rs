//! The shader against the oracle and the twin: every rule, every case, every length that is cut or folded.

mod support;

use support::Gpu;
use wgpu_optim::envelope::{Device, Probe, Snapshot, Trial};
use wgpu_optim::format::codes::Codes;
use wgpu_optim::format::{Q8Zero, Storage};
use wgpu_optim::rule::{Rule, Visitor, visit};
use wgpu_optim::verify::formats::{Numbers, Off};
use wgpu_optim::{Adam, BufferRange, Optimizer, Tensor, readback, verify, wgpu};

#[test]
fn every_case_of_every_rule_is_inside_the_envelope() {
    let Some(Gpu { device, queue }) = support::gpu() else { return };
    let each = |row: &verify::Row| {
        println!("{} {}: {:.3}, {:.3}", row.rule, row.case, row.oracle.envelope, row.twin.envelope);
    };
    let rows = verify::run(&device, &queue, each).unwrap();
    assert_eq!(rows.len(), verify::cases());
    for row in rows {
        assert!(row.passed(), "{row:#?}");
        assert!(row.elements > 10_000, "{row:#?}");
        assert!(row.oracle.ulps > 0.0 && row.oracle.share > 0.0, "compared with itself? {row:#?}");
    }
}

/// A device on which windows and folds are met at a hundred thousand elements.
fn small() -> Option<Gpu> {
    support::gpu_with(|adapter| wgpu::Limits {
        max_storage_buffer_binding_size: 1 << 20,
        max_buffer_size: 4 << 20,
        max_compute_workgroups_per_dimension: 7,
        ..wgpu_optim::required_limits(adapter)
    })
}

/// Lengths around a quad, around a workgroup, and past a window.
const LENS: [usize; 8] = [1, 3, 4, 255, 256, 257, 1025, 100_003];

struct Lengths(Gpu);

impl Visitor for Lengths {
    fn rule<R: Rule>(&mut self) {
        for (case, settings) in R::cases() {
            // In quads with a tail of words, and in words throughout.
            for shift in [0, 1] {
                let bench = Bench::new(&self.0, &settings, &LENS, shift, STEPS);
                bench.compare_steps(&format!("{} {case}, shifted by {shift}", R::NAME));
            }
        }
    }
}

#[test]
fn every_length_is_stepped_whole_at_small_limits() {
    let Some(gpu) = small() else { return };
    visit(&mut Lengths(gpu));
}

#[test]
fn a_tensor_past_the_binding_limit_and_past_65535_groups_is_stepped_whole() {
    let Some(gpu) = support::gpu_with(|_| wgpu::Limits::default()) else { return };
    // 128 MiB and a quad and a bit, one element off a quad: 131 073 workgroups of words in three windows.
    let bench = Bench::new(&gpu, &Adam::PYTORCH, &[(32 << 20) + 5], 1, 1);
    assert!(bench.optimizer.dispatches() >= 3);
    bench.compare_steps("adam, large");
}

#[test]
fn steps_in_one_encoder_are_the_steps_of_several_submits() {
    let Some(gpu) = small() else { return };
    struct Encoders(Gpu);
    impl Visitor for Encoders {
        fn rule<R: Rule>(&mut self) {
            for (case, settings) in R::cases() {
                let finals = [1, 5].map(|steps_in_each| {
                    let mut bench = Bench::new(&self.0, &settings, &[257, 5000], 0, 1);
                    bench.write_grads(0);
                    for _ in 0..5 / steps_in_each {
                        let mut encoder = self.0.device.create_command_encoder(&Default::default());
                        for _ in 0..steps_in_each {
                            bench.optimizer.record(&self.0.device, &mut encoder).unwrap();
                        }
                        self.0.queue.submit([encoder.finish()]);
                    }
                    bench.snapshots()
                });
                assert_eq!(finals[0], finals[1], "{} {case}", R::NAME);
                assert_ne!(finals[0][1].params, Probe::new(&settings, 5000, 1, true).start.params);
            }
        }
    }
    visit(&mut Encoders(gpu));
}

const STEPS: usize = 2;
const CANARY: u32 = 0x7fc0_dead;

/// Tensors in one buffer per role, between canaries.
struct Bench<R: Rule> {
    gpu: Gpu,
    settings: R,
    optimizer: Optimizer<R>,
    params: wgpu::Buffer,
    grads: wgpu::Buffer,
    /// (first word, probe)
    tensors: Vec<(usize, Probe)>,
}

impl<R: Rule> Bench<R> {
    fn new(gpu: &Gpu, settings: &R, lens: &[usize], shift: usize, steps: usize) -> Self {
        let mut tensors = Vec::new();
        let mut words = 64;
        for &len in lens {
            let first = usize::next_multiple_of(words, 64) + shift;
            tensors.push((first, Probe::new(settings, len, steps, true)));
            words = first + len + 64;
        }
        let [params, grads] = [(), ()].map(|()| buffer(gpu, words));
        let named = tensors.iter().map(|(first, probe)| {
            let range = |buffer| BufferRange::new(buffer, *first as u64 * 4, probe.start.params.len() as u64 * 4);
            Tensor::new(first.to_string(), range(&params), range(&grads))
        });
        let optimizer = Optimizer::new(&gpu.device, settings.clone(), named).unwrap();
        let mut bench = Self { gpu: gpu.clone(), settings: settings.clone(), optimizer, params, grads, tensors };
        bench.fill();
        bench
    }

    fn fill(&mut self) {
        let Gpu { device, queue } = &self.gpu;
        let start = self.flattened(&self.params, |probe| &probe.start.params);
        readback::upload_blocking(device, queue, &(&self.params).into(), bytemuck::cast_slice(&start)).unwrap();
        for (first, probe) in &self.tensors {
            let name = first.to_string();
            self.optimizer.set_step(&name, probe.steps_before).unwrap();
            for slot in self.optimizer.slots(&name).unwrap() {
                let values = &probe.start.slots[slot_index::<R>(slot)];
                self.optimizer.write_state_blocking(device, queue, &name, slot, values).unwrap();
            }
        }
    }

    fn write_grads(&self, step: usize) {
        let Gpu { device, queue } = &self.gpu;
        let grads = self.flattened(&self.grads, |probe| &probe.grads[step]);
        readback::upload_blocking(device, queue, &(&self.grads).into(), bytemuck::cast_slice(&grads)).unwrap();
    }

    fn flattened<'a>(&'a self, buffer: &wgpu::Buffer, of: impl Fn(&'a Probe) -> &'a [f32]) -> Vec<u32> {
        let mut words = vec![CANARY; (buffer.size() / 4) as usize];
        for (first, probe) in &self.tensors {
            for (word, value) in words[*first..].iter_mut().zip(of(probe)) {
                *word = value.to_bits();
            }
        }
        words
    }

    /// Every tensor, after a look at the canaries.
    fn snapshots(&self) -> Vec<Snapshot<f32>> {
        let Gpu { device, queue } = &self.gpu;
        let bytes = readback::download_blocking(device, queue, &(&self.params).into()).unwrap();
        let mut words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        let mut snapshots = Vec::new();
        for (first, probe) in &self.tensors {
            let own = &mut words[*first..*first + probe.start.params.len()];
            let params = own.iter().map(|&word| f32::from_bits(word)).collect();
            own.fill(CANARY);
            let name = first.to_string();
            let mut slots = vec![Vec::new(); R::SLOTS.len()];
            for slot in self.optimizer.slots(&name).unwrap() {
                slots[slot_index::<R>(slot)] = self.optimizer.read_state_blocking(device, queue, &name, slot).unwrap();
            }
            snapshots.push(Snapshot { params, slots });
        }
        assert_eq!(words.iter().position(|&word| word != CANARY), None, "a neighbour was written");
        snapshots
    }

    fn compare_steps(mut self, what: &str) {
        for step in 0..self.tensors[0].1.grads.len() {
            self.write_grads(step);
            let before = self.snapshots();
            self.optimizer.step_blocking(&self.gpu.device, &self.gpu.queue).unwrap();
            let after = self.snapshots();
            for (((_, probe), before), after) in self.tensors.iter().zip(&before).zip(&after) {
                let number = probe.steps_before + step as u64 + 1;
                let trial = Trial::new(&self.settings, number, before, &probe.grads[step]);
                let (oracle, twin) = (trial.against_oracle(Device(after)), trial.against_twin(Device(after)));
                let len = after.params.len();
                assert!(oracle.holds() && twin.holds(), "{what}, {len} elements: {oracle:?} {twin:?}");
            }
        }
    }
}

fn buffer(gpu: &Gpu, words: usize) -> wgpu::Buffer {
    gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: words as u64 * 4,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}

fn slot_index<R: Rule>(slot: &str) -> usize {
    R::SLOTS.iter().position(|&known| known == slot).unwrap()
}

#[test]
fn every_rule_in_every_format_stores_the_twins_codes() {
    let Some(Gpu { device, queue }) = support::gpu() else { return };
    let each = |row: &verify::formats::Row| println!("{} in {} ({}): {:?}", row.rule, row.formats, row.case, row.off);
    let rows = verify::formats::run(&device, &queue, each).unwrap();
    assert_eq!(rows.len(), verify::formats::cases());
    for row in rows {
        assert!(row.passed(), "{row:#?}");
        assert!(row.elements > 10_000 && row.off.codes + row.elements > 20_000, "{row:#?}");
    }
}

/// What is wrong must show: a code that is two off, too many that are one off, a scale, a number of 32 bits.
#[test]
fn codes_that_are_off_are_noticed() {
    let values: Vec<f32> = (0..1000).map(|i| 0.3 + i as f32 / 1000.0).collect();
    let off = |storage: Storage, scale: f32, harm: &dyn Fn(&mut [u8])| {
        let mut codes = Codes::of(storage, Q8Zero::default(), &values);
        let expected = Numbers::new(storage, codes.clone());
        harm(&mut codes.elements);
        let scaled = codes.scales.as_chunks().0.iter().flat_map(|&own| (f32::from_le_bytes(own) * scale).to_le_bytes());
        codes.scales = scaled.collect();
        let mut off = Off::default();
        off.compare(&Numbers::new(storage, codes), &expected, |_| 1e-6);
        off
    };
    let add = |every: usize, by: u8| {
        move |codes: &mut [u8]| codes.iter_mut().step_by(every).for_each(|code| *code = code.wrapping_add(by))
    };
    for (storage, size) in [(Storage::Bf16, 2), (Storage::F16, 2), (Storage::Q8Signed, 1), (Storage::Q8Unsigned, 1)] {
        let same = off(storage, 1.0, &add(1, 0));
        assert_eq!((same.codes, same.adjacent, same.wrong, same.holds()), (1000, 0, 0, true), "{storage:?}");
        let near = off(storage, 1.0, &add(500 * size, 1));
        assert_eq!((near.adjacent, near.wrong, near.holds()), (2, 0, true), "{storage:?}");
        let often = off(storage, 1.0, &add(100 * size, 1));
        assert_eq!((often.adjacent, often.wrong, often.holds()), (10, 0, false), "{storage:?}");
        let far = off(storage, 1.0, &add(500 * size, 2));
        assert_eq!((far.adjacent, far.wrong, far.holds()), (0, 2, false), "{storage:?}");
    }
    assert!(!off(Storage::Q8Signed, 1.00001, &add(1, 0)).holds());
    assert!(!off(Storage::F32, 1.0, &add(2000, 200)).holds() && off(Storage::F32, 1.0, &add(1, 0)).holds());
}

/// bf16 holds what a device may flush, and what is left of 1e-3 where an update takes away nearly all of it.
#[test]
fn codes_that_the_envelope_allows_are_not_counted_and_those_beyond_it_are() {
    let off = |found: f32, expected: f32, within: f64| {
        let [found, expected] = [found, expected].map(|value| Numbers::nearest(Storage::Bf16, &[value]));
        let mut off = Off::default();
        off.compare(&found, &expected, |_| within);
        (off.adjacent, off.wrong, off.holds())
    };
    let flushed = f64::from(f32::MIN_POSITIVE);
    assert_eq!(off(0.0, 6e-40, flushed), (0, 0, true));
    assert_eq!(off(0.0, 6e-40, 1e-40), (0, 1, false));
    assert_eq!(off(0.0, -1e-33, 1e-10), (0, 0, true));
    assert_eq!(off(0.0, -1e-33, flushed), (0, 1, false));
    let next = 1.0 + 2f32.powi(-7);
    assert_eq!(off(next, 1.0, 2f64.powi(-7)), (0, 0, true));
    assert_eq!(off(next, 1.0, 2f64.powi(-7) * 0.999), (1, 0, false));
    assert_eq!(off(f32::INFINITY, 1.0, f64::INFINITY), (0, 1, false));
}
