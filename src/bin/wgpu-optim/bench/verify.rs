//! Nothing is timed that is not right: two steps of a path, held to the envelope, element by element.

use anyhow::{Result, bail};
use rayon::prelude::*;
use wgpu_optim::Rule;
use wgpu_optim::envelope::{Device, Snapshot, Trial, Worst};

use super::data;
use super::timing::Subject;
use super::workload::Workload;

/// Elements that are held to the envelope at once: it takes some ten times their memory.
const CHUNK: usize = 1 << 16;

/// A way to step a workload, whose values can be looked at.
pub trait Path: Subject {
    /// A tensor's parameters, and its slots in the order of the rule's, empty where not kept.
    ///
    /// # Errors
    /// Where the device fails.
    fn snapshot(&mut self, tensor: usize) -> Result<Snapshot<f32>>;
}

/// Runs a fresh path for two steps, from no state and from some, and compares each with the oracle and the twin.
///
/// # Errors
/// With the tensor, where the envelope is broken.
pub fn verify<R: Rule>(path: &mut dyn Path, settings: &R, workload: &Workload) -> Result<()> {
    path.run(1)?;
    let mut first = Vec::with_capacity(workload.tensors.len());
    for (number, tensor) in workload.tensors.iter().enumerate() {
        let after = path.snapshot(number)?;
        hold(
            settings,
            1,
            &start(settings, number, tensor.len),
            &after,
            &data::grads(number, tensor.len),
            &tensor.name,
        )?;
        first.push(after);
    }
    path.run(1)?;
    for (number, (tensor, before)) in workload.tensors.iter().zip(first).enumerate() {
        let after = path.snapshot(number)?;
        hold(settings, 2, &before, &after, &data::grads(number, tensor.len), &tensor.name)?;
    }
    Ok(())
}

/// Whether what a path holds now is still numbers of full precision: others take a CPU longer.
///
/// # Errors
/// With the first that is not.
pub fn check_normal(path: &mut dyn Path) -> Result<()> {
    let Snapshot { params, slots } = path.snapshot(0)?;
    let odd = params.iter().chain(slots.iter().flatten()).find(|x| !x.is_normal() && **x != 0.0);
    match odd {
        Some(odd) => bail!("the values did not stay finite and normal while they were timed: there is {odd:e}"),
        None => Ok(()),
    }
}

/// A tensor before its first step.
fn start<R: Rule>(settings: &R, tensor: usize, len: u64) -> Snapshot<f32> {
    let slot = |slot| match settings.keeps(slot) {
        true => vec![settings.initial(slot) as f32; len as usize],
        false => Vec::new(),
    };
    Snapshot { params: data::params(tensor, len), slots: (0..R::SLOTS.len()).map(slot).collect() }
}

fn hold<R: Rule>(
    settings: &R,
    step: u64,
    before: &Snapshot<f32>,
    after: &Snapshot<f32>,
    grads: &[f32],
    name: &str,
) -> Result<()> {
    let worst = (0..grads.len().div_ceil(CHUNK))
        .into_par_iter()
        .map(|chunk| {
            let range = chunk * CHUNK..grads.len().min((chunk + 1) * CHUNK);
            let before = part(before, range.clone());
            let after = part(after, range.clone());
            let trial = Trial::new(settings, step, &before, &grads[range]);
            trial.against_oracle(Device(&after)).with(trial.against_twin(Device(&after)))
        })
        .reduce(Worst::default, Worst::with);
    if !worst.holds() {
        bail!("tensor {name:?} is off by {:.3} times what is allowed in step {step}", worst.envelope);
    }
    Ok(())
}

/// A stretch of a tensor; of what is too short, what there is.
fn part(of: &Snapshot<f32>, range: std::ops::Range<usize>) -> Snapshot<f32> {
    let cut = |values: &Vec<f32>| values.get(range.clone()).map(<[f32]>::to_vec).unwrap_or_default();
    Snapshot { params: cut(&of.params), slots: of.slots.iter().map(cut).collect() }
}

#[cfg(test)]
mod tests {
    use wgpu_optim::Adam;

    use super::super::cpu::OnCpu;
    use super::super::timing::Sample;
    use super::super::workload::Size;
    use super::*;

    /// A path that spoils one element of what it steps.
    struct Spoilt {
        path: OnCpu<Adam>,
        at: usize,
        by: f32,
    }

    impl Subject for Spoilt {
        fn run(&mut self, times: u32) -> Result<Sample> {
            self.path.run(times)
        }
    }

    impl Path for Spoilt {
        fn snapshot(&mut self, tensor: usize) -> Result<Snapshot<f32>> {
            let mut snapshot = self.path.snapshot(tensor)?;
            snapshot.slots[1][self.at] *= self.by;
            Ok(snapshot)
        }
    }

    #[test]
    fn one_wrong_element_in_many_is_noticed() {
        let size: Size = "200000".parse().unwrap();
        let workload = &Workload::named("single", &[size]).unwrap()[0];
        let path = || OnCpu::new(&Adam::PYTORCH, workload, false).unwrap();
        assert!(verify(&mut path(), &Adam::PYTORCH, workload).is_ok());
        for (at, by) in [(0, 1.001), (131_072, 1.001), (199_999, f32::NAN)] {
            let refused = verify(&mut Spoilt { path: path(), at, by }, &Adam::PYTORCH, workload);
            let message = refused.unwrap_err().to_string();
            assert!(message.contains("\"w\" is off by"), "{message}");
        }
    }

    #[test]
    fn numbers_that_are_not_normal_are_noticed() {
        let workload = &Workload::named("single-1k", &[]).unwrap()[0];
        let mut path = OnCpu::new(&Adam::PYTORCH, workload, false).unwrap();
        assert!(check_normal(&mut path).is_ok());
        path.run(2).unwrap();
        for by in [1e-38, f32::INFINITY, f32::NAN] {
            let path = OnCpu::new(&Adam::PYTORCH, workload, false).unwrap();
            let mut spoilt = Spoilt { path, at: 3, by };
            spoilt.run(2).unwrap();
            assert!(check_normal(&mut spoilt).is_err(), "{by}");
        }
    }
}
