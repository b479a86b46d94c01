//! The tensors of one case, on the device and on the CPU.

use super::formats::{Row, STEPS};
use super::numbers::{Numbers, Off};
use crate::Error;
use crate::cpu::{self, Slice, SliceMut};
use crate::envelope::{Probe, Snapshot, Trial};
use crate::format::codes::Codes;
use crate::format::{Format, Formats, KAHAN, MASTER, StateFormat};
use crate::optimizer::{Group, Optimizer};
use crate::readback::{download_blocking, upload_blocking};
use crate::rule::{MAX_SLOTS, Rule};
use crate::tensor::{BufferRange, Tensor};
use crate::verify::{CANARY, LENS, MARGIN, flat, index_of};

/// The largest gradient where not every format holds, or every block keeps apart, what an `f32` does.
const TAME: f32 = 16.0;

pub struct Stand<'a, R: Rule> {
    gpu: (&'a wgpu::Device, &'a wgpu::Queue),
    settings: &'a R,
    formats: &'a Formats,
    optimizer: Optimizer<R>,
    twin: cpu::Optimizer<R, f32>,
    params: BufferRange,
    grads: BufferRange,
    tensors: Vec<Placed>,
}

/// A tensor: its first element in both buffers, and what it is stepped with.
struct Placed {
    first: usize,
    name: String,
    probe: Probe,
}

/// A tensor as it is stored, its slots in the order in which the optimizer names them.
#[derive(Clone)]
struct World {
    params: Numbers,
    slots: Vec<(&'static str, Numbers)>,
}

impl<'a, R: Rule> Stand<'a, R> {
    pub fn new(
        gpu: (&'a wgpu::Device, &'a wgpu::Queue),
        settings: &'a R,
        formats: &'a Formats,
        warm: bool,
    ) -> Result<Self, Error> {
        let (tensors, elements) = placed(settings, formats, warm);
        let words = |format: Format| (elements * format.size() as usize).div_ceil(4);
        let params = flat(gpu.0, "params", words(formats.params));
        let grads = flat(gpu.0, "grads", words(formats.grads));
        let range = |buffer: &BufferRange, format: Format, placed: &Placed| {
            let len = placed.probe.start.params.len() as u64;
            BufferRange::new(buffer.buffer(), placed.first as u64 * format.size(), len * format.size())
        };
        let tensor = |placed: &Placed| {
            let own = range(&params, formats.params, placed);
            Tensor::new(&placed.name, own, range(&grads, formats.grads, placed))
        };
        let group = Group::new(settings.clone(), tensors.iter().map(tensor)).with_formats(formats.clone());
        let optimizer = Optimizer::with_groups(gpu.0, [group])?;
        let mut twin = cpu::Optimizer::with_chain(crate::Chain::default())?;
        let named = tensors.iter().map(|placed| (placed.name.as_str(), placed.probe.start.params.len()));
        twin.add_group_with(settings.clone(), formats.clone(), named)?;
        let mut stand = Self { gpu, settings, formats, optimizer, twin, params, grads, tensors };
        stand.fill()?;
        Ok(stand)
    }

    /// Puts every tensor where its probe starts.
    fn fill(&mut self) -> Result<(), Error> {
        let (device, queue) = self.gpu;
        let start = self.laid_out(&self.params, self.formats.params, |probe| &probe.start.params);
        upload_blocking(device, queue, &self.params, &start)?;
        for Placed { name, probe, .. } in &self.tensors {
            self.optimizer.set_step(name, probe.steps_before)?;
            self.twin.set_step(name, probe.steps_before)?;
            for slot in self.optimizer.slots(name)? {
                if let Some(values) = probe.start.slots.get(index_of::<R>(slot)) {
                    self.optimizer.write_state_blocking(device, queue, name, slot, values)?;
                }
            }
        }
        Ok(())
    }

    /// Takes one step on both and compares them.
    pub fn step(&mut self, step: usize, row: &mut Row) -> Result<(), Error> {
        let (device, queue) = self.gpu;
        let grads = self.laid_out(&self.grads, self.formats.grads, |probe| &probe.grads[step]);
        upload_blocking(device, queue, &self.grads, &grads)?;
        let before = self.worlds(row)?;
        self.optimizer.step_blocking(device, queue)?;
        let after = self.worlds(row)?;
        let expected = self.twin_step(step, &before)?;
        for (((placed, before), after), expected) in self.tensors.iter().zip(&before).zip(&after).zip(&expected) {
            self.compare(placed, step, [before, after, expected], &mut row.off);
            row.elements += after.params.values().len() as u64;
        }
        if download_blocking(device, queue, &self.grads)? != grads {
            row.damage = Some("the step wrote into the gradients' buffer".into());
        }
        Ok(())
    }

    fn grads_of(&self, placed: &Placed, step: usize) -> Numbers {
        Numbers::nearest(self.formats.grads.storage(), &placed.probe.grads[step])
    }

    /// Every tensor one step after `before`, as the CPU has it.
    fn twin_step(&mut self, step: usize, before: &[World]) -> Result<Vec<World>, Error> {
        for (Placed { name, .. }, world) in self.tensors.iter().zip(before) {
            for (slot, numbers) in &world.slots {
                numbers.write_to(self.twin.stored_mut(name, slot)?);
            }
        }
        let Formats { params: format, grads: grads_format, .. } = *self.formats;
        let mut params: Vec<_> = before.iter().map(|world| Aligned::new(world.params.bytes())).collect();
        let grads: Vec<_> = self.tensors.iter().map(|placed| self.grads_of(placed, step)).collect();
        let grads: Vec<_> = grads.iter().map(|grads| Aligned::new(grads.bytes())).collect();
        let grads: Vec<_> = grads.iter().filter_map(|own| Slice::of_bytes(grads_format, own.bytes())).collect();
        let mut lent: Vec<_> =
            params.iter_mut().filter_map(|own| SliceMut::of_bytes(format, own.bytes_mut())).collect();
        self.twin.step_slices(&mut lent, &grads)?;
        let world = |(Placed { name, .. }, params): (&Placed, &Aligned)| {
            let slot =
                |slot| Ok((slot, Numbers::of_slice(self.twin.storage(name, slot)?, self.twin.stored(name, slot)?)));
            let params = Codes { elements: params.bytes().to_vec(), scales: Vec::new() };
            let slots = self.twin.slots(name)?.into_iter().map(slot).collect::<Result<_, Error>>()?;
            Ok(World { params: Numbers::new(format.storage(), params), slots })
        };
        self.tensors.iter().zip(&params).map(world).collect()
    }

    fn compare(&self, placed: &Placed, step: usize, [before, after, expected]: [&World; 3], off: &mut Off) {
        let number = placed.probe.steps_before + step as u64 + 1;
        let start = before.snapshot::<R>();
        let trial = Trial::new(self.settings, number, &start, self.grads_of(placed, step).values());
        let oracle = trial.oracle();
        let within = |i: usize| trial.params_within(i, oracle.params[i]);
        off.compare(&after.params, &expected.params, within);
        if self.formats.params == Format::F32 {
            off.full(after.params.values(), |i| oracle.params[i], within);
        }
        for ((slot, found), (_, expected)) in after.slots.iter().zip(&expected.slots) {
            match (*slot, oracle.slots.get(index_of::<R>(slot))) {
                (KAHAN, _) => off.full(&after.whole(found), |i| oracle.params[i], |i| within(i) + rounded(found, i)),
                (MASTER, _) => {
                    off.compare(found, expected, within);
                    off.full(found.values(), |i| oracle.params[i], within);
                }
                (slot, Some(exact)) => {
                    let within = |i: usize| trial.slot_within(index_of::<R>(slot), i, exact[i]);
                    off.compare(found, expected, within);
                    if found.is_full() {
                        off.full(found.values(), |i| exact[i], within);
                    }
                }
                (_, None) => {}
            }
        }
    }

    /// Every tensor as it now is, with a look at what lies between them.
    fn worlds(&self, row: &mut Row) -> Result<Vec<World>, Error> {
        let (device, queue) = self.gpu;
        let size = self.formats.params.size() as usize;
        let mut bytes = download_blocking(device, queue, &self.params)?;
        let mut worlds = Vec::new();
        for Placed { first, name, probe } in &self.tensors {
            let own = first * size..(first + probe.start.params.len()) * size;
            let params = Codes { elements: bytes[own.clone()].to_vec(), scales: Vec::new() };
            let canary = canaries(bytes.len());
            bytes[own.clone()].copy_from_slice(&canary[own]);
            let slot = |slot| Ok((slot, self.slot(name, slot)?));
            let slots = self.optimizer.slots(name)?.into_iter().map(slot).collect::<Result<_, Error>>()?;
            worlds.push(World { params: Numbers::new(self.formats.params.storage(), params), slots });
        }
        if let Some(byte) = bytes.iter().zip(canaries(bytes.len())).position(|(&byte, canary)| byte != canary) {
            row.damage = Some(format!("the step wrote to byte {byte} of the parameters' buffer, which is no tensor's"));
        }
        Ok(worlds)
    }

    fn slot(&self, name: &str, slot: &str) -> Result<Numbers, Error> {
        let all = |ranges: Vec<BufferRange>| -> Result<Vec<u8>, Error> {
            let bytes = |range| download_blocking(self.gpu.0, self.gpu.1, range);
            Ok(ranges.iter().map(bytes).collect::<Result<Vec<_>, _>>()?.concat())
        };
        let elements = all(self.optimizer.state_ranges(name, slot)?)?;
        let scales = all(self.optimizer.scale_ranges(name, slot)?)?;
        Ok(Numbers::new(self.optimizer.storage(name, slot)?, Codes { elements, scales }))
    }

    /// One value of each probe, laid out as the buffers are.
    fn laid_out(&self, buffer: &BufferRange, format: Format, of: impl Fn(&Probe) -> &[f32]) -> Vec<u8> {
        let mut bytes = canaries(buffer.size() as usize);
        for placed in &self.tensors {
            let own = Numbers::nearest(format.storage(), of(&placed.probe));
            let first = placed.first * format.size() as usize;
            bytes[first..first + own.bytes().len()].copy_from_slice(own.bytes());
        }
        bytes
    }
}

impl World {
    /// What the rule computes with.
    fn snapshot<R: Rule>(&self) -> Snapshot<f32> {
        let mut snapshot = Snapshot { params: self.params.values().to_vec(), slots: vec![Vec::new(); MAX_SLOTS] };
        for (slot, numbers) in &self.slots {
            match *slot {
                // Where it is 0, none was taken yet.
                MASTER => {
                    let taken = snapshot.params.iter_mut().zip(numbers.values()).filter(|(_, own)| own.to_bits() != 0);
                    taken.for_each(|(param, own)| *param = *own);
                }
                KAHAN => snapshot.params = self.whole(numbers),
                slot => snapshot.slots[index_of::<R>(slot)] = numbers.values().to_vec(),
            }
        }
        snapshot
    }

    /// Parameters with what their rounding lost.
    fn whole(&self, lost: &Numbers) -> Vec<f32> {
        self.params.values().iter().zip(lost.values()).map(|(param, lost)| param + lost).collect()
    }
}

/// What storing a number in 16 bits may have moved it by: 2^-8 of it, or of f16's smallest one half.
fn rounded(numbers: &Numbers, element: usize) -> f64 {
    f64::from(numbers.values()[element].abs()) * 2f64.powi(-8) + 2f64.powi(-25)
}

/// Each length twice: where an element lies at a multiple of the margin, and beside it.
fn placed<R: Rule>(settings: &R, formats: &Formats, warm: bool) -> (Vec<Placed>, usize) {
    let is_q8 = formats.state == StateFormat::Q8 || formats.slots.values().any(|&slot| slot == StateFormat::Q8);
    let tame = is_q8 || formats.grads == Format::F16;
    let mut end = MARGIN;
    let mut tensors = Vec::new();
    for (shift, len) in [0, 1].into_iter().flat_map(|shift| LENS.map(|len| (shift, len))) {
        let first = end.next_multiple_of(MARGIN) + shift;
        let mut probe = Probe::new(settings, len, STEPS, warm);
        if tame {
            probe.grads.iter_mut().flatten().for_each(|grad| *grad = tamed(*grad));
        }
        tensors.push(Placed { first, name: format!("element {first}"), probe });
        end = first + len + MARGIN;
    }
    (tensors, end)
}

fn tamed(mut grad: f32) -> f32 {
    while grad.abs() > TAME {
        grad /= 1024.0;
    }
    grad
}

fn canaries(bytes: usize) -> Vec<u8> {
    CANARY.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

/// Bytes that lie where numbers can.
struct Aligned {
    words: Vec<u32>,
    size: usize,
}

impl Aligned {
    fn new(bytes: &[u8]) -> Self {
        let mut own = Self { words: vec![0; bytes.len().div_ceil(4)], size: bytes.len() };
        own.bytes_mut().copy_from_slice(bytes);
        own
    }

    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.size]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.size]
    }
}
