//! Parameters, optimizer state and step count in one safetensors file.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use wgpu_optim::{Rule, readback};

use super::model::TENSORS;
use super::output;
use super::training::Training;

/// The key of the metadata that tells our files from others. It holds the rule's name.
const OURS: &str = "train_digits";
const STEP: &str = "step";

/// Writes the run as the steps submitted so far leave it, which waits for them.
///
/// # Errors
/// Where the device is lost or the file cannot be written; an earlier file is then as it was.
pub fn save<R: Rule>(path: &Path, rule: &str, training: &Training<R>) -> Result<()> {
    let mut entries = vec![(STEP.to_string(), Dtype::U64, vec![], training.steps()?.to_le_bytes().to_vec())];
    for (name, shape) in TENSORS {
        let params = training.model.arena.params(name)?;
        let params = readback::download_blocking(&training.device, &training.queue, params)?;
        entries.push((name.into(), Dtype::F32, shape.to_vec(), params));
        for slot in training.optimizer.slots(name)? {
            let state = training.optimizer.read_state_blocking(&training.device, &training.queue, name, slot)?;
            entries.push((key(name, slot), Dtype::F32, shape.to_vec(), bytemuck::cast_slice(&state).to_vec()));
        }
    }
    let view = |(name, dtype, shape, bytes)| Ok((name, TensorView::new(dtype, shape, bytes)?));
    let views = entries.iter().map(|(name, dtype, shape, bytes)| view((name, *dtype, shape.clone(), bytes)));
    let views: Vec<_> = views.collect::<Result<_>>()?;
    let metadata = HashMap::from([(OURS.to_string(), rule.to_string())]);
    output::replace(path, &safetensors::serialize(views, Some(metadata))?)
}

/// Takes a run to where a file has it.
///
/// # Errors
/// Where the file cannot be read, is not one of ours, or is of another rule; the run is then as it was.
pub fn load<R: Rule>(path: &Path, rule: &str, training: &mut Training<R>) -> Result<()> {
    let read = || Saved::parse(&fs::read(path)?, rule, training);
    let saved = read().with_context(|| format!("cannot go on from {}", path.display()))?;
    for (name, values) in &saved.params {
        let range = training.model.arena.params(name)?;
        training.queue.write_buffer(range.buffer(), range.offset(), bytemuck::cast_slice(values));
    }
    for (name, slot, values) in &saved.state {
        training.optimizer.write_state_blocking(&training.device, &training.queue, name, slot, values)?;
    }
    training.optimizer.set_all_steps(saved.step);
    Ok(())
}

/// What a file holds, once all of it was found to fit.
struct Saved {
    step: u64,
    params: Vec<(&'static str, Vec<f32>)>,
    state: Vec<(&'static str, &'static str, Vec<f32>)>,
}

impl Saved {
    fn parse<R: Rule>(bytes: &[u8], rule: &str, training: &Training<R>) -> Result<Self> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).context("it is no safetensors file")?;
        match metadata.metadata().as_ref().and_then(|metadata| metadata.get(OURS)) {
            None => bail!("it is no checkpoint of train_digits: its metadata has no {OURS:?}"),
            Some(saved) if saved != rule => bail!("it was saved with --rule {saved}, this run has --rule {rule}"),
            Some(_) => {}
        }
        let file = SafeTensors::deserialize(bytes).context("it is no safetensors file")?;
        let (step, mut params, mut state) = (step(&file)?, Vec::new(), Vec::new());
        for (name, shape) in TENSORS {
            params.push((name, values(&file, name, shape)?));
            for slot in training.optimizer.slots(name)? {
                state.push((name, slot, values(&file, &key(name, slot), shape)?));
            }
        }
        Ok(Self { step, params, state })
    }
}

fn key(name: &str, slot: &str) -> String {
    format!("state.{name}.{slot}")
}

fn step(file: &SafeTensors<'_>) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes(file, STEP, Dtype::U64, &[])?.try_into()?))
}

fn values(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    Ok(bytemuck::pod_collect_to_vec(bytes(file, name, Dtype::F32, shape)?))
}

fn bytes<'a>(file: &SafeTensors<'a>, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&'a [u8]> {
    let tensor = file.tensor(name).with_context(|| format!("it holds no tensor {name:?}"))?;
    let (is, has) = (tensor.dtype(), tensor.shape());
    ensure!(is == dtype && has == shape, "{name:?} is {is} {has:?} in it, expected {dtype} {shape:?}");
    Ok(tensor.data())
}
