//! Does this device compute the steps? Every rule and every case, against the oracle and the twin.
//!
//! Each step is compared with one step of the CPU from the very bits that the device started from, so errors do
//! not add up and the envelope can be tight.

pub mod compensation;
pub mod formats;
mod numbers;
mod stand;

use crate::Error;
use crate::envelope::{Device, Probe, Snapshot, Trial, Worst};
use crate::optimizer::Optimizer;
use crate::readback::{download_blocking, upload_blocking};
use crate::rule::{Rule, Visitor, visit};
use crate::tensor::{BufferRange, Tensor};

/// What came of one case.
#[derive(Clone, Debug)]
pub struct Row {
    /// The rule.
    pub rule: &'static str,
    /// The case.
    pub case: &'static str,
    /// Elements compared, over all tensors and steps.
    pub elements: u64,
    /// Against the `f64` oracle.
    pub oracle: Worst,
    /// Against the `f32` twin.
    pub twin: Worst,
    /// What else is wrong: a neighbour's bytes that changed, a gradient that was written.
    pub damage: Option<String>,
}

impl Row {
    /// Whether the envelope holds and nothing was damaged.
    pub fn passed(&self) -> bool {
        self.oracle.holds() && self.twin.holds() && self.damage.is_none()
    }
}

/// Lengths of the tensors of a case: each in quads and in words.
const LENS: [usize; 6] = [1, 3, 255, 256, 257, 1021];
/// Steps of a probe.
const STEPS: usize = 4;
/// What lies between the tensors, and must lie there afterwards: a NaN that no arithmetic makes.
const CANARY: u32 = 0x7fc0_dead;
/// Words of canary around each tensor; with them an aligned tensor is followed by a misaligned one.
const MARGIN: usize = 64;

/// Runs every case of every rule; `each` sees a row as soon as it is there.
///
/// # Errors
/// Those of building and recording. A device that computes wrongly is no error: it is a row that has not
/// [`passed`](Row::passed).
pub fn run(device: &wgpu::Device, queue: &wgpu::Queue, each: impl FnMut(&Row)) -> Result<Vec<Row>, Error> {
    struct All<'a, F> {
        device: &'a wgpu::Device,
        queue: &'a wgpu::Queue,
        each: F,
        rows: Result<Vec<Row>, Error>,
    }
    impl<F: FnMut(&Row)> Visitor for All<'_, F> {
        fn rule<R: Rule>(&mut self) {
            for (case, settings) in R::cases() {
                let Ok(rows) = &mut self.rows else { return };
                match run_case(self.device, self.queue, case, &settings) {
                    Ok(row) => {
                        (self.each)(&row);
                        rows.push(row);
                    }
                    Err(error) => self.rows = Err(error),
                }
            }
        }
    }
    let mut all = All { device, queue, each, rows: Ok(Vec::new()) };
    visit(&mut all);
    all.rows
}

/// How many rows [`run`] returns.
pub fn cases() -> usize {
    struct Count(usize);
    impl Visitor for Count {
        fn rule<R: Rule>(&mut self) {
            self.0 += R::cases().len();
        }
    }
    let mut count = Count(0);
    visit(&mut count);
    count.0
}

/// Runs one case, cold and warm.
///
/// # Errors
/// As [`run`].
pub fn run_case<R: Rule>(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    case: &'static str,
    settings: &R,
) -> Result<Row, Error> {
    let (oracle, twin) = (Worst::default(), Worst::default());
    let mut row = Row { rule: R::NAME, case, elements: 0, oracle, twin, damage: None };
    for warm in [false, true] {
        let mut bench = Bench::new(device, queue, settings, warm)?;
        for step in 0..STEPS {
            bench.step(step, &mut row)?;
        }
    }
    Ok(row)
}

/// The tensors of one case on the device.
struct Bench<'a, R: Rule> {
    device: &'a wgpu::Device,
    queue: &'a wgpu::Queue,
    settings: R,
    optimizer: Optimizer<R>,
    params: BufferRange,
    grads: BufferRange,
    /// (first word, what it is stepped with) of each tensor.
    tensors: Vec<(usize, Probe)>,
}

impl<'a, R: Rule> Bench<'a, R> {
    fn new(device: &'a wgpu::Device, queue: &'a wgpu::Queue, settings: &R, warm: bool) -> Result<Self, Error> {
        let mut tensors = Vec::new();
        let mut words = MARGIN;
        for shift in [0, 1] {
            for len in LENS {
                let first = words.next_multiple_of(MARGIN) + shift;
                tensors.push((first, Probe::new(settings, len, STEPS, warm)));
                words = first + len + MARGIN;
            }
        }
        let [params, grads] = ["params", "grads"].map(|role| flat(device, role, words));
        let range = |buffer: &BufferRange, first: usize, len: usize| {
            BufferRange::new(buffer.buffer(), first as u64 * 4, len as u64 * 4)
        };
        let named = tensors.iter().map(|(first, probe)| {
            let len = probe.start.params.len();
            Tensor::new(name(*first), range(&params, *first, len), range(&grads, *first, len))
        });
        let optimizer = Optimizer::new(device, settings.clone(), named)?;
        let settings = settings.clone();
        let mut bench = Self { device, queue, settings, optimizer, params, grads, tensors };
        bench.fill()?;
        Ok(bench)
    }

    /// Puts every tensor where its probe starts.
    fn fill(&mut self) -> Result<(), Error> {
        let start = self.flattened(|probe| &probe.start.params);
        upload_blocking(self.device, self.queue, &self.params, bytemuck::cast_slice(&start))?;
        for (first, probe) in &self.tensors {
            let name = name(*first);
            self.optimizer.set_step(&name, probe.steps_before)?;
            for slot in self.optimizer.slots(&name)? {
                let values = &probe.start.slots[index_of::<R>(slot)];
                self.optimizer.write_state_blocking(self.device, self.queue, &name, slot, values)?;
            }
        }
        Ok(())
    }

    /// Takes one step on the device and compares it.
    fn step(&mut self, step: usize, row: &mut Row) -> Result<(), Error> {
        let grads = self.flattened(|probe| &probe.grads[step]);
        upload_blocking(self.device, self.queue, &self.grads, bytemuck::cast_slice(&grads))?;
        let before = self.snapshots(row)?;
        self.optimizer.step_blocking(self.device, self.queue)?;
        let after = self.snapshots(row)?;
        for (((_, probe), before), after) in self.tensors.iter().zip(&before).zip(&after) {
            let number = probe.steps_before + step as u64 + 1;
            let trial = Trial::new(&self.settings, number, before, &probe.grads[step]);
            row.oracle = row.oracle.with(trial.against_oracle(Device(after)));
            row.twin = row.twin.with(trial.against_twin(Device(after)));
            row.elements += after.params.len() as u64;
        }
        if self.words(&self.grads)? != grads {
            row.damage = Some("the step wrote into the gradients' buffer".into());
        }
        Ok(())
    }

    /// Every tensor as it now is, with a look at what lies between them.
    fn snapshots(&self, row: &mut Row) -> Result<Vec<Snapshot<f32>>, Error> {
        let mut words = self.words(&self.params)?;
        let mut snapshots = Vec::new();
        for (first, probe) in &self.tensors {
            let own = &mut words[*first..*first + probe.start.params.len()];
            let params = own.iter().map(|&word| f32::from_bits(word)).collect();
            own.fill(CANARY);
            let name = name(*first);
            let mut slots = vec![Vec::new(); R::SLOTS.len()];
            for slot in self.optimizer.slots(&name)? {
                let values = self.optimizer.read_state_blocking(self.device, self.queue, &name, slot)?;
                slots[index_of::<R>(slot)] = values;
            }
            snapshots.push(Snapshot { params, slots });
        }
        if let Some(word) = words.iter().position(|&word| word != CANARY) {
            row.damage = Some(format!("the step wrote to word {word} of the parameters' buffer, which is no tensor's"));
        }
        Ok(snapshots)
    }

    /// One value of each probe, laid out as the buffers are.
    fn flattened<'b>(&'b self, of: impl Fn(&'b Probe) -> &'b [f32]) -> Vec<u32> {
        let mut words = vec![CANARY; (self.params.size() / 4) as usize];
        for (first, probe) in &self.tensors {
            for (word, value) in words[*first..].iter_mut().zip(of(probe)) {
                *word = value.to_bits();
            }
        }
        words
    }

    fn words(&self, range: &BufferRange) -> Result<Vec<u32>, Error> {
        let bytes = download_blocking(self.device, self.queue, range)?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }
}

fn flat(device: &wgpu::Device, role: &str, words: usize) -> BufferRange {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    BufferRange::from(&device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(&format!("wgpu-optim verify {role}")),
        size: words as u64 * 4,
        usage,
        mapped_at_creation: false,
    }))
}

fn name(first: usize) -> String {
    format!("word {first}")
}

fn index_of<R: Rule>(slot: &str) -> usize {
    R::SLOTS.iter().take_while(|&&known| known != slot).count()
}
