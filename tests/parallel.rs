//! The CPU's step on all cores is the twin's, bit for bit, however many threads there are.

use wgpu_optim::envelope::Probe;
use wgpu_optim::rule::{Rule, Visitor, visit};
use wgpu_optim::{Adam, Error, cpu};

/// From one element to several tasks; the last is mapped, and longer than a task.
const LENS: [usize; 9] = [1, 3, 7, 8, 33, 255, 16_385, 65_537, 300_007];
const STEPS: usize = 3;

/// A rule's optimizer on the CPU, with what it steps.
#[derive(Clone)]
struct Run<R: Rule> {
    optimizer: cpu::Optimizer<R, f32>,
    params: Vec<Vec<f32>>,
}

type Step<R> = fn(&mut cpu::Optimizer<R, f32>, &mut [&mut [f32]], &[&[f32]]) -> Result<(), Error>;

impl<R: Rule> Run<R> {
    fn new(settings: &R, probes: &[Probe]) -> Self {
        let names: Vec<String> = LENS.iter().map(|len| format!("of {len}")).collect();
        let tensors = names.iter().map(String::as_str).zip(LENS);
        let mut optimizer = cpu::Optimizer::new(settings.clone(), tensors).unwrap();
        for (name, probe) in names.iter().zip(probes) {
            optimizer.set_step(name, probe.steps_before).unwrap();
            for slot in optimizer.slots(name).unwrap() {
                let index = R::SLOTS.iter().position(|known| *known == slot).unwrap();
                optimizer.set_state(name, slot, &probe.start.slots[index]).unwrap();
            }
        }
        Self { optimizer, params: probes.iter().map(|probe| probe.start.params.clone()).collect() }
    }

    /// One step of all tensors but one, which is frozen in the second step.
    fn step(&mut self, probes: &[Probe], step: usize, by: Step<R>) {
        if step == 1 {
            self.optimizer.freeze(["of 255"]).unwrap();
        }
        let mut params: Vec<&mut [f32]> = self.params.iter_mut().map(Vec::as_mut_slice).collect();
        let grads: Vec<&[f32]> = probes.iter().map(|probe| probe.grads[step].as_slice()).collect();
        by(&mut self.optimizer, &mut params, &grads).unwrap();
        self.optimizer.thaw(["of 255"]).unwrap();
    }

    /// Every parameter and every slot, as bits.
    fn bits(&self) -> Vec<Vec<u32>> {
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect();
        let mut all: Vec<Vec<u32>> = self.params.iter().map(|p| bits(p)).collect();
        for name in self.optimizer.names() {
            for slot in self.optimizer.slots(name).unwrap() {
                all.push(bits(self.optimizer.state(name, slot).unwrap()));
            }
        }
        all
    }
}

#[test]
fn every_case_is_the_twins_bit_for_bit_at_every_number_of_threads() {
    struct Each;
    impl Visitor for Each {
        fn rule<R: Rule>(&mut self) {
            for (case, settings) in R::cases() {
                same_bits(case, &settings);
            }
        }
    }
    visit(&mut Each);
}

fn same_bits<R: Rule>(case: &str, settings: &R) {
    let probes: Vec<Probe> = LENS.iter().map(|&len| Probe::new(settings, len, STEPS, len % 2 == 1)).collect();
    let start = Run::new(settings, &probes);
    let mut twin = start.clone();
    (0..STEPS).for_each(|step| twin.step(&probes, step, cpu::Optimizer::step));
    assert_ne!(start.bits(), twin.bits(), "{} {case} moved nothing", R::NAME);
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        // Not a clone, whose state would be on the heap.
        let mut run = Run::new(settings, &probes);
        pool.install(|| (0..STEPS).for_each(|step| run.step(&probes, step, cpu::Optimizer::step_parallel)));
        assert!(run.bits() == twin.bits(), "{} {case} differs with {threads} threads", R::NAME);
    }
}

#[test]
fn a_wrong_length_is_refused_before_anything_has_moved() {
    let mut optimizer = cpu::Optimizer::<Adam, f32>::new(Adam::PYTORCH, [("a", 2), ("b", 3)]).unwrap();
    let (mut a, mut b) = ([1.0; 2], [1.0; 3]);
    let refused = optimizer.step_parallel(&mut [&mut a, &mut b], &[&[0.5; 2], &[0.5; 2]]);
    let message = "gradient of \"b\" has 2 elements, its parameters have 3";
    assert!(refused.unwrap_err().to_string().contains(message));
    assert_eq!((a, optimizer.step_of("a").unwrap()), ([1.0; 2], 0));
}
