//! Nothing is timed that is not right: two steps of a path, every element of both.
//!
//! Every element is held to the twin, which costs little. Where that is not near enough, and in chunks spread over
//! each tensor, the oracle and the whole envelope decide. Formats of fewer bits are held to the codes of the twin's
//! step.

use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use wgpu_optim::Rule;
use wgpu_optim::envelope::{Device, Snapshot, Trial, Worst};
use wgpu_optim::format::Formats;
use wgpu_optim::rule::{cast, kept_slots};

use super::data;
use super::format::planes;
use super::narrow::{Narrow, Off, rounded};
use super::near::is_near;
use super::timing::Subject;
use super::workload::Workload;

/// Elements that are judged at once: with all that is made of them they stay in a core's cache.
pub const CHUNK: usize = 1 << 14;
/// A tensor of up to 16 chunks is held to the oracle wholly, of a longer one every 16th chunk is.
const SPREAD: usize = 16;

/// A way to step a workload, whose values can be looked at.
pub trait Path: Subject {
    /// Shows a tensor to `see`, all of it and in order, in stretches that start at multiples of [`CHUNK`].
    ///
    /// # Errors
    /// Where the device fails, and those of `see`.
    fn show(&mut self, tensor: usize, see: &mut See<'_>) -> Result<()>;
}

/// What looks at a tensor.
pub type See<'a> = dyn FnMut(Stretch<'_>) -> Result<()> + 'a;

/// The values of a tensor from some element to another.
pub struct Stretch<'a> {
    pub params: &'a [f32],
    /// The slots in the order of the rule's, empty where not kept.
    pub slots: Vec<&'a [f32]>,
}

impl Stretch<'_> {
    /// The elements of the chunk of this number; of what is too short, what there is.
    fn chunk(&self, number: usize) -> Snapshot<f32> {
        let cut = |values: &[f32]| values.chunks(CHUNK).nth(number).unwrap_or_default().to_vec();
        Snapshot { params: cut(self.params), slots: self.slots.iter().map(|slot| cut(slot)).collect() }
    }
}

/// Runs a fresh path for two steps, from no state and from some, and looks at every element after each. `say` is told
/// how far it is. It holds the parameters and the slots once.
///
/// # Errors
/// With the tensor, where the envelope is broken.
pub fn verify<R: Rule>(
    path: &mut dyn Path,
    settings: &R,
    formats: &Formats,
    workload: &Workload,
    say: &dyn Fn(&str),
) -> Result<()> {
    let lens = workload.tensors.iter().map(|tensor| tensor.len as usize).enumerate();
    let mut before: Vec<Vec<Snapshot<f32>>> = lens.map(|(tensor, len)| start(settings, formats, tensor, len)).collect();
    for step in 1..=2 {
        path.run(1)?;
        for (tensor, before) in before.iter_mut().enumerate() {
            say(&format!("step {step}, tensor {} of {}", tensor + 1, workload.tensors.len()));
            let name = &workload.tensors[tensor].name;
            let len = workload.tensors[tensor].len;
            let one = OneStep { settings, formats, h: cast(&settings.fold(step)), step, tensor, len };
            let (worst, off) = one.worst(path, before).with_context(|| format!("tensor {name:?}"))?;
            if !worst.holds() {
                bail!("tensor {name:?} is off by {:.3} times what is allowed in step {step}", worst.envelope);
            }
            if !off.holds() {
                let Off { compared, near, far } = off;
                bail!(
                    "tensor {name:?}: of {compared} values {near} are next to their code and {far} elsewhere in step {step}"
                );
            }
        }
    }
    Ok(())
}

/// Whether what a path holds now is still numbers of full precision: others take a CPU longer.
///
/// # Errors
/// With the first that is not.
pub fn check_normal(path: &mut dyn Path) -> Result<()> {
    path.show(0, &mut |Stretch { params, slots }| {
        let odd = params.iter().chain(slots.into_iter().flatten()).find(|x| !x.is_normal() && **x != 0.0);
        match odd {
            Some(odd) => bail!("the values did not stay finite and normal while they were timed: there is {odd:e}"),
            None => Ok(()),
        }
    })
}

/// A tensor before its first step, in chunks.
fn start<R: Rule>(settings: &R, formats: &Formats, tensor: usize, len: usize) -> Vec<Snapshot<f32>> {
    let planes = planes(settings, formats, len as u64);
    let chunk = |chunk: usize| {
        let range = chunk * CHUNK..len.min((chunk + 1) * CHUNK);
        let mut slots = vec![Vec::new(); R::SLOTS.len()];
        for (slot, plane) in kept_slots(settings).into_iter().zip(&planes) {
            let initial = vec![settings.initial(slot) as f32; range.len()];
            slots[slot] = rounded(plane.storage, formats.q8_zero, &initial);
        }
        let params = data::params(tensor, range);
        Snapshot { params: rounded(formats.params.storage(), formats.q8_zero, &params), slots }
    };
    (0..len.div_ceil(CHUNK)).into_par_iter().map(chunk).collect()
}

/// Whether a chunk, of so many, is held to the oracle in any case: the first, the last, the middle, and some between.
fn is_sampled(chunk: usize, chunks: usize) -> bool {
    chunks <= SPREAD || chunk.is_multiple_of(SPREAD) || chunk == chunks / 2 || chunk + 1 == chunks
}

/// What is worst of two.
fn both(a: (Worst, Off), b: (Worst, Off)) -> (Worst, Off) {
    (a.0.with(b.0), a.1.with(b.1))
}

/// One step of one tensor.
struct OneStep<'a, R: Rule> {
    settings: &'a R,
    formats: &'a Formats,
    h: R::Hyper<f32>,
    step: u64,
    tensor: usize,
    len: u64,
}

impl<R: Rule> OneStep<'_, R> {
    /// Compares all that the path shows with a step from `before`, which becomes what was shown.
    fn worst(&self, path: &mut dyn Path, before: &mut [Snapshot<f32>]) -> Result<(Worst, Off)> {
        let (mut worst, mut first, chunks) = (<(Worst, Off)>::default(), 0, before.len());
        path.show(self.tensor, &mut |stretch| {
            let end = first + stretch.params.len().div_ceil(CHUNK);
            let Some(before) = before.get_mut(first..end) else { bail!("it shows more than {chunks} chunks") };
            let judge = |(number, before): (usize, &mut Snapshot<f32>)| {
                let (chunk, after) = (first + number, stretch.chunk(number));
                let judged = match self.formats.is_plain() {
                    true => (self.worst_of(chunk, is_sampled(chunk, chunks), before, Device(&after)), Off::default()),
                    false => (Worst::default(), self.off(chunk, before, &after)),
                };
                *before = after;
                judged
            };
            worst = both(worst, before.par_iter_mut().enumerate().map(judge).reduce(Default::default, both));
            first = end;
            Ok(())
        })?;
        match first == chunks {
            true => Ok(worst),
            false => bail!("it shows {first} chunks of {chunks}"),
        }
    }

    /// How far the codes of one chunk are off.
    fn off(&self, chunk: usize, before: &Snapshot<f32>, after: &Snapshot<f32>) -> Off {
        let start = chunk * CHUNK;
        let grads = data::grads(self.tensor, start..start + before.params.len());
        Narrow { settings: self.settings, formats: self.formats, len: self.len }.off(&self.h, before, &grads, after)
    }

    /// The envelope of one chunk; nothing where it need not be measured.
    fn worst_of(&self, chunk: usize, sampled: bool, before: &Snapshot<f32>, after: Device<'_>) -> Worst {
        let start = chunk * CHUNK;
        let grads = data::grads(self.tensor, start..start + before.params.len());
        if !sampled && is_near(self.settings, &self.h, before, &grads, after) {
            return Worst::default();
        }
        let trial = Trial::new(self.settings, self.step, before, &grads);
        trial.against_oracle(after).with(trial.against_twin(after))
    }
}

#[cfg(test)]
mod tests {
    use wgpu_optim::Adam;

    use super::super::cpu::OnCpu;
    use super::super::timing::Sample;
    use super::super::workload::Size;
    use super::*;

    /// A path that spoils one element of what it shows.
    struct Spoilt {
        path: OnCpu<Adam>,
        /// Parameters, or the slot before this number.
        array: usize,
        at: usize,
        by: f32,
        /// From which step on.
        from: u32,
        steps: u32,
    }

    impl Subject for Spoilt {
        fn run(&mut self, times: u32) -> Result<Sample> {
            self.steps += times;
            self.path.run(times)
        }
    }

    impl Path for Spoilt {
        fn show(&mut self, tensor: usize, see: &mut See<'_>) -> Result<()> {
            let (array, at, by, spoils) = (self.array, self.at, self.by, self.steps >= self.from);
            self.path.show(tensor, &mut |Stretch { params, slots }| {
                let mut arrays = vec![params.to_vec()];
                arrays.extend(slots.iter().map(|slot| slot.to_vec()));
                if spoils {
                    arrays[array][at] *= by;
                }
                see(Stretch { params: &arrays[0], slots: arrays[1..].iter().map(|slot| &slot[..]).collect() })
            })
        }
    }

    /// A path that shows only so many elements.
    struct Short(OnCpu<Adam>, usize);

    impl Subject for Short {
        fn run(&mut self, times: u32) -> Result<Sample> {
            self.0.run(times)
        }
    }

    impl Path for Short {
        fn show(&mut self, tensor: usize, see: &mut See<'_>) -> Result<()> {
            let len = self.1;
            self.0.show(tensor, &mut |Stretch { params, slots }| {
                let slots = slots.into_iter().map(|slot| &slot[..len.min(slot.len())]).collect();
                see(Stretch { params: &params[..len], slots })
            })
        }
    }

    const RULE: Adam = Adam::PYTORCH;

    fn single(len: usize) -> Workload {
        let size: Size = len.to_string().parse().unwrap();
        Workload::named("single", &[size]).unwrap().remove(0)
    }

    fn path(workload: &Workload) -> OnCpu<Adam> {
        OnCpu::new(&RULE, &Formats::default(), workload, false).unwrap()
    }

    fn refused(path: &mut dyn Path, workload: &Workload) -> String {
        format!("{:#}", verify(path, &RULE, &Formats::default(), workload, &|_| ()).unwrap_err())
    }

    #[test]
    fn one_wrong_element_in_many_is_noticed() {
        let workload = single(200_000);
        assert!(verify(&mut path(&workload), &RULE, &Formats::default(), &workload, &|_| ()).is_ok());
        for (array, at, by) in [(0, 100_000, 1.01), (1, 0, 1.001), (2, 131_072, 1.001), (2, 199_999, f32::NAN)] {
            let mut spoilt = Spoilt { path: path(&workload), array, at, by, from: 1, steps: 0 };
            let message = refused(&mut spoilt, &workload);
            assert!(message.contains("\"w\" is off by") && message.ends_with("in step 1"), "{message}");
        }
    }

    /// The quick look alone finds what lies in no chunk that the oracle is asked for.
    #[test]
    fn one_wrong_element_between_the_samples_is_noticed_in_either_step() {
        let chunks = 40;
        let workload = single(chunks * CHUNK - 5);
        let skipped: Vec<usize> = (0..chunks).filter(|&chunk| !is_sampled(chunk, chunks)).collect();
        assert_eq!(skipped.len(), chunks - 5);
        for (from, by) in [(1, 1.001), (2, 1.001), (2, f32::INFINITY)] {
            for (array, chunk) in [(0, skipped[0]), (1, skipped[9]), (2, skipped[chunks - 6])] {
                let at = chunk * CHUNK + CHUNK / 3;
                let mut spoilt = Spoilt { path: path(&workload), array, at, by, from, steps: 0 };
                let message = refused(&mut spoilt, &workload);
                assert!(message.ends_with(&format!("in step {from}")), "{array} {chunk} {message}");
            }
        }
    }

    #[test]
    fn every_tensor_has_samples_at_its_ends_in_its_middle_and_between() {
        for chunks in [1, 2, 16, 17, 100, 2356] {
            let sampled: Vec<usize> = (0..chunks).filter(|&chunk| is_sampled(chunk, chunks)).collect();
            assert!([0, chunks / 2, chunks - 1].iter().all(|chunk| sampled.contains(chunk)), "{chunks}");
            assert!(sampled.windows(2).all(|two| two[1] - two[0] <= SPREAD), "{chunks}");
            assert!(chunks > SPREAD || sampled.len() == chunks, "{chunks}");
        }
    }

    #[test]
    fn what_is_not_shown_is_noticed() {
        let workload = single(3 * CHUNK);
        for len in [0, CHUNK, 3 * CHUNK - 1] {
            assert!(
                verify(&mut Short(path(&workload), len), &RULE, &Formats::default(), &workload, &|_| ()).is_err(),
                "{len}"
            );
        }
        assert!(verify(&mut Short(path(&workload), 3 * CHUNK), &RULE, &Formats::default(), &workload, &|_| ()).is_ok());
        let shorter = single(2 * CHUNK);
        assert!(refused(&mut path(&workload), &shorter).contains("more than 2 chunks"));
    }

    #[test]
    fn numbers_that_are_not_normal_are_noticed() {
        let workload = single(1024);
        let mut fine = path(&workload);
        assert!(check_normal(&mut fine).is_ok());
        fine.run(2).unwrap();
        assert!(check_normal(&mut fine).is_ok());
        for by in [1e-38, f32::INFINITY, f32::NAN] {
            let mut spoilt = Spoilt { path: path(&workload), array: 2, at: 3, by, from: 1, steps: 0 };
            spoilt.run(2).unwrap();
            assert!(check_normal(&mut spoilt).is_err(), "{by}");
        }
    }
}
