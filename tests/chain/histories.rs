//! Tensors that are frozen, added and set while steps are skipped: the device counts what each has taken, and the twin,
//! which counts on the host, agrees. A count that is off by one is off by a tenth of the update in early steps.

use wgpu_optim::{Adam, AmsgradOver, Chain, Clip, Ema, Scaler, cpu};

use crate::bench::{Bench, Spec, add, grads, noise, twin};
use crate::support::{self, Gpu};

const SPECS: [Spec; 5] = [(0, 0, 9), (0, 1, 70), (0, 0, 300), (1, 0, 33), (1, 2, 1030)];
const LATER: [Spec; 2] = [(0, 0, 18), (2, 3, 301)];

/// The device and the twin, called alike.
struct Both {
    bench: Bench<Adam>,
    twin: cpu::Optimizer<Adam, f32>,
    params: Vec<Vec<f32>>,
    steps: u64,
    added: bool,
}

fn settings() -> [Adam; 2] {
    [Adam { lr: 0.01, ..Adam::PYTORCH }, Adam { lr: 0.02, beta2: 0.99, nesterov: true, ..Adam::KERAS }]
}

fn chain(clip: Option<Clip>) -> Chain {
    let scaler = Some(Scaler { init_scale: 1024.0, growth_interval: 3, ..Scaler::PYTORCH });
    Chain { clip, scaler, ema: Some(Ema { decay: 0.75, overwrite_every: 3 }), ..Chain::default() }
}

impl Both {
    fn new(gpu: &Gpu, chain: &Chain) -> Self {
        let bench = Bench::with_later(gpu, chain, &settings(), &SPECS, &LATER);
        let params = (0..SPECS.len()).map(|i| bench.start(i)).collect();
        Self { bench, twin: twin(chain, &settings(), &SPECS), params, steps: 0, added: false }
    }

    fn freeze(&mut self, names: &[&str]) {
        self.bench.optimizer.freeze(names).unwrap();
        self.twin.freeze(names).unwrap();
    }

    fn thaw(&mut self, names: &[&str]) {
        self.bench.optimizer.thaw(names).unwrap();
        self.twin.thaw(names).unwrap();
    }

    fn set_step(&mut self, name: &str, step: u64) {
        self.bench.optimizer.set_step(name, step).unwrap();
        self.twin.set_step(name, step).unwrap();
    }

    fn retune(&mut self, lr: f64) {
        let settings = Adam { lr, ..settings()[0].clone() };
        self.bench.optimizer.retune(0, settings.clone()).unwrap();
        self.twin.retune(0, settings.clone()).unwrap();
        // What the device has added to its group 0 is group 2 of the twin.
        if self.added {
            self.twin.retune(2, settings).unwrap();
        }
    }

    fn retune_chain(&mut self, chain: Chain) {
        self.bench.optimizer.retune_chain(chain.clone()).unwrap();
        self.twin.retune_chain(chain).unwrap();
    }

    /// A tensor to group 0, and a group of another.
    fn add(&mut self) {
        let device = self.bench.gpu.device.clone();
        let mut tensors = self.bench.later(&LATER).into_iter();
        let other = Adam { amsgrad: true, amsgrad_over: AmsgradOver::Corrected, lr: 0.01, ..Adam::OPTAX };
        let own = self.bench.optimizer.settings(0).unwrap().clone();
        self.bench.optimizer.add_tensors(&device, 0, tensors.next()).unwrap();
        let group = wgpu_optim::Group::new(other.clone(), tensors);
        self.bench.optimizer.add_group(&device, group).unwrap();
        add(&mut self.twin, &own, 5..6, &self.bench.specs);
        add(&mut self.twin, &other, 6..7, &self.bench.specs);
        self.params.extend((5..7).map(|i| self.bench.start(i)));
        self.added = true;
    }

    /// Gradients in another buffer from now on.
    fn rebind(&mut self) {
        self.bench.grads = self.bench.more_grads(&[]);
        let grads = self.bench.grads.clone();
        self.bench.rebind(&grads);
    }

    /// One step of both from the device's bits, with gradients that come at the scale of the twin.
    fn step(&mut self, bad: Option<usize>) {
        self.take_bits();
        let mut grads = grads(&self.bench.specs, self.steps, self.twin.control().scale);
        if let Some(tensor) = bad {
            *grads[tensor].last_mut().unwrap() = f32::INFINITY;
        }
        self.steps += 1;
        let before = self.params.clone();
        self.bench.step(&grads);
        let mut params: Vec<&mut [f32]> = self.params.iter_mut().map(Vec::as_mut_slice).collect();
        let grads: Vec<&[f32]> = grads.iter().map(Vec::as_slice).collect();
        self.twin.step(&mut params, &grads).unwrap();
        self.compare(&before);
    }

    fn take_bits(&mut self) {
        for i in 0..self.params.len() {
            self.params[i] = self.bench.params_of(i);
            let name = format!("t{i}");
            for slot in self.bench.optimizer.slots(&name).unwrap() {
                self.twin.set_state(&name, slot, &self.bench.slot(i, slot)).unwrap();
            }
        }
    }

    fn compare(&self, before: &[Vec<f32>]) {
        let control = self.twin.control();
        let scaler = (control.scale, control.growth_tracker, control.skipped as u32);
        assert_eq!(self.bench.scaler(), scaler, "step {}", self.steps);
        for (i, before) in before.iter().enumerate() {
            let what = format!("step {}, t{i}", self.steps);
            close(&self.bench.params_of(i), &self.params[i], before, &format!("{what}, parameters"));
            for slot in self.bench.optimizer.slots(&format!("t{i}")).unwrap() {
                let twin = self.twin.state(&format!("t{i}"), slot).unwrap();
                close(&self.bench.slot(i, slot), twin, &vec![0.0; twin.len()], &format!("{what}, {slot}"));
            }
        }
        self.bench.check_canaries();
    }
}

/// Within 5e-6 of the largest change, and two ULP.
fn close(device: &[f32], twin: &[f32], before: &[f32], what: &str) {
    let largest = twin.iter().zip(before).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    for (i, (&a, &b)) in device.iter().zip(twin).enumerate() {
        let error = (f64::from(a) - f64::from(b)).abs();
        let allowed = 5e-6 * largest + 2.4e-7 * f64::from(b.abs());
        assert!(error <= allowed, "{what}[{i}]: {a:e} for {b:e}, {error:e} of {allowed:e}");
    }
}

#[test]
fn windows_of_one_length_with_a_skip_in_one_of_them_are_told_apart() {
    let Some(gpu) = support::gpu() else { return };
    for clip in [None, Some(Clip::tensor_norm(0.5))] {
        let mut both = Both::new(&gpu, &chain(clip));
        both.step(None);
        // t0 misses a skipped step and a clean one, t1 two clean ones, t2 the same as t0.
        both.freeze(&["t0", "t2"]);
        both.step(Some(1));
        both.step(None);
        both.thaw(&["t0", "t2"]);
        both.freeze(&["t1"]);
        both.step(None);
        both.step(None);
        both.thaw(&["t1"]);
        (0..3).for_each(|_| both.step(None));
        both.step(Some(4));
        both.step(None);
    }
}

#[test]
fn windows_that_start_or_end_together_are_told_apart() {
    let Some(gpu) = support::gpu() else { return };
    let mut both = Both::new(&gpu, &chain(None));
    both.step(None);
    both.freeze(&["t0", "t1", "t2"]);
    both.step(Some(3));
    both.thaw(&["t0"]);
    both.step(None);
    both.freeze(&["t0"]);
    both.thaw(&["t1"]);
    both.step(Some(4));
    both.thaw(&["t0", "t2"]);
    both.freeze(&["t1"]);
    both.step(None);
    both.thaw(&["t1"]);
    // Frozen and thawed between two steps: nothing has been missed.
    both.freeze(&["t0"]);
    both.thaw(&["t0"]);
    (0..3).for_each(|_| both.step(None));
}

#[test]
fn a_count_that_is_set_holds_through_skips_and_freezing() {
    let Some(gpu) = support::gpu() else { return };
    let mut both = Both::new(&gpu, &chain(Some(Clip::global_norm(0.5))));
    both.set_step("t4", 3);
    both.step(None);
    both.step(Some(0));
    // To what the host has counted of the others, one of whose steps was skipped.
    both.set_step("t0", 2);
    both.step(None);
    both.freeze(&["t1", "t3"]);
    both.set_step("t1", 7);
    both.step(Some(2));
    both.step(None);
    both.thaw(&["t1", "t3"]);
    both.set_step("t1", 0);
    both.set_step("t2", 0);
    both.step(None);
    // Set twice before a step: the last counts. All frozen: nothing is taken, and nothing forgotten.
    both.set_step("t2", 40);
    both.set_step("t2", 4);
    both.freeze(&["t0", "t1", "t2", "t3", "t4"]);
    both.step(None);
    both.step(Some(1));
    both.thaw(&["t0", "t1", "t2", "t3", "t4"]);
    (0..2).for_each(|_| both.step(None));
}

#[test]
fn tensors_that_come_later_count_from_nothing() {
    let Some(gpu) = support::gpu() else { return };
    for clip in [None, Some(Clip::global_norm(0.5)), Some(Clip::tensor_norm(0.2))] {
        let mut both = Both::new(&gpu, &chain(clip));
        both.set_step("t0", 0);
        both.step(Some(1));
        both.step(None);
        both.add();
        // What was there counts two, one of them skipped; what came is to be told from what is set to the same.
        both.set_step("t1", 0);
        both.step(None);
        both.step(Some(6));
        both.rebind();
        both.step(None);
        both.retune(0.03);
        both.freeze(&["t5", "t6"]);
        both.step(Some(0));
        both.thaw(&["t5", "t6"]);
        both.step(None);
    }
}

#[test]
fn a_chain_with_other_numbers_goes_on_from_where_it_was() {
    let Some(gpu) = support::gpu() else { return };
    let mut both = Both::new(&gpu, &chain(Some(Clip::global_norm(0.5))));
    both.step(None);
    both.step(Some(1));
    both.retune_chain(Chain {
        ema: Some(Ema { decay: 0.5, overwrite_every: 0 }),
        ..chain(Some(Clip::tensor_norm(0.1)))
    });
    both.step(None);
    both.retune_chain(chain(Some(Clip::value(0.01))));
    both.step(None);
    let scaler = Some(Scaler { backoff_factor: 0.25, growth_factor: 8.0, growth_interval: 1, ..Scaler::PYTORCH });
    let clamp = Some(wgpu_optim::Clamp { min: -0.4, max: 0.45 });
    both.retune_chain(Chain { scaler, clamp, ..chain(Some(Clip::global_norm(2.0))) });
    both.step(None);
    both.step(Some(2));
    both.step(None);
}

/// In each round every tensor of a group misses one step of three, one of which is skipped: the host counts the same of
/// all, the device does not.
#[test]
fn tensors_that_miss_one_step_of_each_round_are_told_apart() {
    let Some(gpu) = support::gpu() else { return };
    for seed in 0..4 {
        let below = |draw: u64, n: usize| (noise(seed << 40 | draw) * n as f64) as usize;
        let mut both = Both::new(&gpu, &chain(None));
        for round in 0..4 {
            let (turn, skipped) = (below(2 * round, 3), below(2 * round + 1, 3));
            for step in 0..3 {
                let away = format!("t{}", (turn + step) % 3);
                both.freeze(&[&away]);
                both.step((step == skipped).then_some(3));
                both.thaw(&[&away]);
            }
            both.step(None);
        }
    }
}

/// Whatever is called, in whatever order: the device counts what the twin counts.
#[test]
fn any_order_of_calls_counts_what_the_twin_counts() {
    let Some(gpu) = support::gpu() else { return };
    for seed in 0..8u64 {
        let draw = std::cell::Cell::new(seed << 32);
        let below = |n: usize| {
            draw.set(draw.get() + 1);
            (noise(draw.get() ^ 0x5eed_0000_0000) * n as f64) as usize
        };
        let mut both = Both::new(&gpu, &chain([None, Some(Clip::global_norm(0.5))][below(2)].clone()));
        for _ in 0..30 {
            let tensors = both.params.len();
            let name = format!("t{}", below(tensors));
            match below(10) {
                0 | 1 => both.freeze(&[&name]),
                2 | 3 => both.thaw(&[&name]),
                4 => both.set_step(&name, below(4) as u64),
                5 if tensors == SPECS.len() => both.add(),
                6 => both.rebind(),
                7 => both.retune(0.01 * (1 + below(3)) as f64),
                _ => {}
            }
            both.step((below(3) == 0).then(|| below(tensors)));
        }
    }
}
