//! The doorway: an optimizer over the caller's device, buffers and encoder.

mod access;
mod around;
#[cfg(all(feature = "checkpoint", not(target_arch = "wasm32")))]
mod checkpoint;
mod remap;
mod rows;

use std::collections::{BTreeMap, HashSet};

use crate::Error;
use crate::chain::Chain;
use crate::control::{Control, Memory, Set};
use crate::format::Formats;
use crate::format::noise::tensor_key;
use crate::kernel::{Kernels, limits_of};
#[cfg(not(target_arch = "wasm32"))]
use crate::kernel::{guarded, lost};
use crate::plan::{self, Item, Kinds, Place};
use crate::record::{self, Buffers, Launches, Parts, Step, bind_scalars};
use crate::roster::{Member, Roster};
use crate::rule::{Rule, variant};
use crate::state::State;
use crate::telemetry::{Recorded, Ring};
use crate::tensor::{BufferRange, Tensor, check_overlaps};
use crate::updates::Updates;

/// Tensors that share settings.
#[derive(Clone, Debug)]
pub struct Group<R> {
    settings: R,
    formats: Formats,
    tensors: Vec<Tensor>,
}

impl<R: Rule> Group<R> {
    /// A group. Its number is its place among the groups of its optimizer, the first being 0.
    pub fn new(settings: R, tensors: impl IntoIterator<Item = Tensor>) -> Self {
        Self { settings, formats: Formats::default(), tensors: tensors.into_iter().collect() }
    }

    /// The same, with parameters, gradients and state in these formats: all `f32` where nothing is said. An element of
    /// 16 bits has 2 bytes, and ranges are multiples of that; the last word of a range must lie in its buffer whole.
    pub fn with_formats(self, formats: Formats) -> Self {
        Self { formats, ..self }
    }
}

/// An optimizer: [`record`](Self::record) adds one step of every tensor to the caller's encoder.
///
/// It owns the state (`exp_avg`, …) and nothing else. It submits nothing behind the caller's back, waits for
/// nothing, and holds no global state. Cost of a step on the host: one small buffer, one bind group, one compute
/// pass; nothing for each tensor unless they lie in buffers of their own.
#[derive(Debug)]
pub struct Optimizer<R: Rule> {
    roster: Roster<R>,
    tensors: Vec<Tensor>,
    kernels: Kernels,
    limits: plan::Limits,
    state: State,
    buffers: Buffers,
    launches: Launches,
    /// Whether the launches are sorted by the roster's classes as they are.
    classified: bool,
    /// Where steps are decided about on the device.
    decided: Option<Decided>,
    /// Where updates are watched.
    updates: Option<Updates>,
    ring: Ring,
}

/// What a decision on the device needs.
#[derive(Debug)]
struct Decided {
    memory: Memory,
    control: Option<Control>,
    /// Step counts that tensors are to have, which the next step tells the device.
    sets: Vec<Set>,
}

/// A step that is about to be recorded.
struct Ready {
    /// What it is decided from.
    orders: Option<wgpu::BindGroup>,
    scalars: wgpu::BindGroup,
    /// What is dispatched in the place of the launches, where rows are listed.
    instead: Option<Instead>,
    /// Whether it takes what parameters move by.
    watched: bool,
}

/// The dispatches of one step, and the decision about them.
struct Instead {
    steps: Vec<Step>,
    control: Option<Control>,
}

/// A tensor of a group, as it is placed.
///
/// # Errors
/// What can be wrong with the tensor.
fn item<R: Rule>(kinds: &mut Kinds, roster: &Roster<R>, group: usize, tensor: &Tensor) -> Result<Item, Error> {
    let formats = roster.formats(group)?;
    tensor.check(formats)?;
    let len = tensor.len(formats);
    let room = tensor.params.room(formats.params).min(tensor.grads.room(formats.grads));
    let stored = roster.stored_of(group, len);
    let (planes, key) = (stored.storages(), stored.has_chance().then(|| tensor_key(tensor.name())));
    let variant = kinds.number(variant(roster.groups(), group), &planes, key.is_some());
    Ok(Item { variant, group, planes, key, len, room })
}

impl<R: Rule> Optimizer<R> {
    /// One group of tensors. Compiles the kernels, allocates the state, submits nothing.
    ///
    /// The first step, too, makes its scalars and nothing else. What a driver puts off until a kernel is
    /// first submitted stays with the first submit: some compile for the machine only there, unless they find the
    /// kernel in their cache on disk.
    ///
    /// # Errors
    /// Everything that can be wrong with a setting, a tensor or a limit is refused here: see [`Error`].
    pub fn new(device: &wgpu::Device, settings: R, tensors: impl IntoIterator<Item = Tensor>) -> Result<Self, Error> {
        Self::with_groups(device, [Group::new(settings, tensors)])
    }

    /// Groups of tensors, each with its settings; the first is number 0.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_groups(device: &wgpu::Device, groups: impl IntoIterator<Item = Group<R>>) -> Result<Self, Error> {
        Self::with_kernels(device, &Kernels::new(device)?, groups)
    }

    /// [`with_groups`](Self::with_groups), sharing kernels that another optimizer of this device has compiled.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_kernels(
        device: &wgpu::Device,
        kernels: &Kernels,
        groups: impl IntoIterator<Item = Group<R>>,
    ) -> Result<Self, Error> {
        Self::with_chain(device, kernels, Chain::default(), groups)
    }

    /// [`with_kernels`](Self::with_kernels), with a chain around each update: clipping, loss scaling, averages.
    ///
    /// Cost: a norm reads each gradient once more, in two dispatches of its own for each of the step, and a third
    /// decides; nothing is read back. See [`Chain`] for what else is moved.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Limits`] where a decision needs more storage buffers than the device grants.
    pub fn with_chain(
        device: &wgpu::Device,
        kernels: &Kernels,
        chain: Chain,
        groups: impl IntoIterator<Item = Group<R>>,
    ) -> Result<Self, Error> {
        kernels.check_device(device)?;
        chain.check()?;
        let mut optimizer = Self {
            roster: Roster::new(chain),
            tensors: Vec::new(),
            kernels: kernels.clone(),
            limits: limits_of(device)?,
            state: State::default(),
            buffers: Buffers::default(),
            launches: Launches::default(),
            classified: false,
            decided: None,
            updates: None,
            ring: Ring::default(),
        };
        if optimizer.roster.chain().measures() {
            kernels.decision()?;
            let memory = Memory::new(device, &optimizer.roster)?;
            optimizer.decided = Some(Decided { memory, control: None, sets: Vec::new() });
        }
        optimizer.extend(device, groups.into_iter().collect(), None)?;
        Ok(optimizer)
    }

    /// The compiled kernels, for [`with_kernels`](Self::with_kernels).
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Records one step of every tensor that is not frozen, in a compute pass of its own, and counts it.
    ///
    /// Gradients are read and left as they are: to clear or overwrite them is the caller's.
    ///
    /// Steps may be recorded one after another into one encoder. Nothing is submitted; for an encoder that is
    /// thrown away, put the count back with [`set_step`](Self::set_step). Under a scaler the device counts, and has not
    /// counted such a step; what was set, or tensors that were added, since the step before it must be set again.
    ///
    /// # Errors
    /// Only what could not be known before: [`Error::OutOfMemory`], [`Error::DeviceLost`], and [`Error::Refused`] for
    /// another device than the optimizer's. No step is counted then. wgpu cannot tell devices of two `Instance`s
    /// apart, and panics on such a mix.
    pub fn record(&mut self, device: &wgpu::Device, encoder: &mut wgpu::CommandEncoder) -> Result<(), Error> {
        let Some(ready) = self.next(device, self.updates.is_some())? else { return Ok(()) };
        self.pass(encoder, &ready);
        self.advance();
        Ok(())
    }

    fn pass(&mut self, encoder: &mut wgpu::CommandEncoder, ready: &Ready) {
        if let Some(decided) = &self.decided {
            decided.memory.copy(encoder);
        }
        let label = format!("wgpu-optim {} step", R::NAME);
        let descriptor = wgpu::ComputePassDescriptor { label: Some(&label), timestamp_writes: None };
        self.dispatch(&mut encoder.begin_compute_pass(&descriptor), ready);
        let report = self.decided.as_ref().map(|decided| &decided.memory.report);
        let moved = self.updates.as_ref().filter(|_| ready.watched).and_then(Updates::sums);
        let recorded = Recorded { number: self.roster.recorded(), lr: self.roster.lr() };
        self.ring.follow(encoder, recorded, [report, moved]);
    }

    fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, ready: &Ready) {
        let decided = self.decided.as_ref().and_then(|decided| decided.control.as_ref());
        let (control, steps) = match &ready.instead {
            Some(Instead { steps, control }) => (control.as_ref(), steps.as_slice()),
            None => (decided, self.launches.steps()),
        };
        if let (Some(control), Some(orders)) = (control, &ready.orders) {
            control.dispatch(pass, orders);
        }
        match self.updates.as_ref().filter(|_| ready.watched) {
            Some(updates) => updates.dispatch(pass, &ready.scalars),
            None => record::dispatch(steps, pass, &ready.scalars),
        }
    }

    fn advance(&mut self) {
        self.roster.advance();
        if let Some(decided) = &mut self.decided {
            decided.sets.clear();
            decided.memory.copied();
        }
    }

    /// [`record`](Self::record) into a compute pass of the caller's. It leaves its pipeline and bind groups 0
    /// and 1 set.
    ///
    /// # Errors
    /// As [`record`](Self::record). Where steps are decided on the device, [`Error::Refused`] for the first step after
    /// many tensors were added: their counts are copied then, which a pass cannot do.
    pub fn record_in(&mut self, device: &wgpu::Device, pass: &mut wgpu::ComputePass<'_>) -> Result<(), Error> {
        if self.decided.as_ref().is_some_and(|decided| decided.memory.must_copy()) {
            return Err(Error::Refused {
                doing: "recording into a pass".into(),
                message: "step counts must be copied first, since tensors were added: record this step with `record`"
                    .into(),
            });
        }
        let Some(ready) = self.next(device, false)? else { return Ok(()) };
        self.dispatch(pass, &ready);
        self.advance();
        Ok(())
    }

    /// Records one step, submits it and waits until it is done: for scripts and tests.
    ///
    /// # Errors
    /// As [`record`](Self::record), [`Error::DeviceLost`], and [`Error::Refused`] where a buffer was destroyed since.
    /// No step is counted then.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn step_blocking(&mut self, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<(), Error> {
        let Some(ready) = self.next(device, self.updates.is_some())? else { return Ok(()) };
        let label = Some("wgpu-optim blocking step");
        let polled = guarded(device, "a step", || {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
            self.pass(&mut encoder, &ready);
            queue.submit([encoder.finish()]);
            device.poll(wgpu::PollType::wait_indefinitely())
        })?;
        polled.map_err(|_| lost("a step"))?;
        self.advance();
        Ok(())
    }

    /// Sorts the launches by the classes as they are, where that has not been done.
    fn classify(&mut self, device: &wgpu::Device) -> Result<(), Error> {
        self.kernels.check_device(device)?;
        self.classified &= !self.roster.tune()?;
        if self.classified {
            return Ok(());
        }
        let Self { kernels, limits, buffers, state, launches, roster, .. } = self;
        launches.classify(&Parts { device, kernels, limits, buffers, state }, roster)?;
        if let Some(decided) = &mut self.decided {
            decided.control = None;
        }
        if let Some(updates) = &mut self.updates {
            updates.reclassed();
        }
        self.classified = true;
        Ok(())
    }

    /// What the next step is dispatched with, or nothing where every tensor is frozen.
    fn next(&mut self, device: &wgpu::Device, watched: bool) -> Result<Option<Ready>, Error> {
        self.classify(device)?;
        if self.roster.classes().next().is_none() {
            return Ok(None);
        }
        if watched {
            self.prepare_updates(device)?;
        }
        let Self { kernels, limits, buffers, state, launches, roster, .. } = self;
        let parts = Parts { device, kernels, limits, buffers, state };
        let Some(Decided { memory, control, sets, .. }) = &mut self.decided else {
            let scalars = bind_scalars(device, kernels, limits, (roster, watched))?;
            return Ok(Some(Ready { orders: None, scalars, instead: None, watched }));
        };
        let control = match control {
            Some(control) => control,
            None => control.insert(Control::prepare(&parts, launches.steps(), roster)?),
        };
        let orders = Some(control.orders(&parts, memory, roster, sets)?);
        Ok(Some(Ready { orders, scalars: control.scalars.clone(), instead: None, watched }))
    }

    /// Makes what a step that tells its update dispatches.
    fn prepare_updates(&mut self, device: &wgpu::Device) -> Result<(), Error> {
        let Self { kernels, limits, buffers, state, roster, tensors, updates, .. } = self;
        let Some(updates) = updates else { return Ok(()) };
        // Padding is nobody's parameter, whatever a step makes of it.
        let mut place = |range: &BufferRange, format| {
            let place = range.place(buffers.number(range.buffer()), format);
            Place { room: place.span.size, ..place }
        };
        let mut places = Vec::with_capacity(tensors.len());
        for (tensor, member) in tensors.iter().zip(roster.members()) {
            let formats = roster.formats(member.group)?;
            places.push((place(&tensor.params, formats.params), place(&tensor.grads, formats.grads)));
        }
        updates.prepare(&Parts { device, kernels, limits, buffers, state }, tensors, &places, roster)
    }

    /// Adds a group to a running optimizer and returns its number. What is there stays as it is.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn add_group(&mut self, device: &wgpu::Device, group: Group<R>) -> Result<usize, Error> {
        self.extend(device, vec![group], None)?;
        Ok(self.roster.groups().len() - 1)
    }

    /// Adds tensors to a group. Their step counts start at 0, their state where the rule starts it.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], or as [`new`](Self::new).
    pub fn add_tensors(
        &mut self,
        device: &wgpu::Device,
        group: usize,
        tensors: impl IntoIterator<Item = Tensor>,
    ) -> Result<(), Error> {
        let settings = self.roster.group(group)?.clone();
        let formats = self.roster.formats(group)?.clone();
        self.extend(device, vec![Group::new(settings, tensors).with_formats(formats)], Some(group))
    }

    /// Adds what is new beside what is there; all or nothing.
    fn extend(&mut self, device: &wgpu::Device, new: Vec<Group<R>>, into: Option<usize>) -> Result<(), Error> {
        let extended = self.try_extend(device, new, into);
        self.release();
        extended
    }

    /// Lets go of buffers that nothing is bound to, be it that they have moved or that they were refused.
    fn release(&mut self) {
        let bound = self.tensors.iter().flat_map(|tensor| [&tensor.params, &tensor.grads]);
        let bound = bound.filter_map(|range| self.buffers.known(range.buffer()));
        let watched = self.updates.iter().flat_map(Updates::buffers);
        let used: HashSet<usize> = self.launches.buffers().chain(watched).chain(bound).collect();
        self.buffers.retain(&used);
    }

    /// Checks, places and launches.
    fn try_extend(&mut self, device: &wgpu::Device, new: Vec<Group<R>>, into: Option<usize>) -> Result<(), Error> {
        self.kernels.check_device(device)?;
        let mut roster = self.roster.clone();
        let mut tensors = self.tensors.clone();
        let mut items = Vec::new();
        let mut kinds = Kinds::default();
        for Group { settings, formats, tensors: members } in new {
            let group = match into {
                Some(group) => group,
                None => roster.add_group(settings, formats)?,
            };
            let mut named = Vec::with_capacity(members.len());
            for tensor in &members {
                let item = item(&mut kinds, &roster, group, tensor)?;
                named.push(Member::new(tensor.name().into(), item.len, group));
                items.push(item);
            }
            roster.add_members(named)?;
            tensors.extend(members);
        }
        let places = self.places(&tensors, &roster, roster.chain().zero_grads)?;
        let first = self.tensors.len();
        let order = |item: usize| (places[first + item].0.span.buffer, places[first + item].0.span.offset);
        let state = self.state.extended(device, &items, &self.limits, order, &roster)?;
        if let Some(Decided { memory, control, .. }) = &mut self.decided {
            memory.grow(device, tensors.len(), roster.recorded())?;
            *control = None;
        }
        let Self { kernels, limits, buffers, launches, .. } = self;
        let parts = Parts { device, kernels, limits, buffers, state: &state };
        launches.prepare(&parts, &tensors, &places, &roster)?;
        (self.roster, self.tensors, self.state, self.classified) = (roster, tensors, state, true);
        if let Some(updates) = &mut self.updates {
            updates.moved();
        }
        Ok(())
    }

    /// Moves gradients: the next step reads each named tensor's gradient from its new place.
    ///
    /// Bind groups are cached, so going back and forth between some sets of buffers costs a look-up. Steps that
    /// are already recorded keep the places that they were recorded with.
    ///
    /// # Errors
    /// [`Error::UnknownName`], or what can be wrong with a range; nothing has moved then.
    pub fn rebind_grads<'a>(
        &mut self,
        device: &wgpu::Device,
        grads: impl IntoIterator<Item = (&'a str, BufferRange)>,
    ) -> Result<(), Error> {
        let rebound = self.try_rebind(device, &mut grads.into_iter());
        self.release();
        rebound
    }

    fn try_rebind(
        &mut self,
        device: &wgpu::Device,
        grads: &mut dyn Iterator<Item = (&str, BufferRange)>,
    ) -> Result<(), Error> {
        self.kernels.check_device(device)?;
        let mut tensors = self.tensors.clone();
        let mut named = HashSet::new();
        for (name, range) in grads {
            if !named.insert(name) {
                return Err(Error::DuplicateName { name: name.into() });
            }
            tensors[self.roster.find(name)?].grads = range;
        }
        for (tensor, member) in tensors.iter().zip(self.roster.members()) {
            tensor.check(self.roster.formats(member.group)?)?;
        }
        let places = self.places(&tensors, &self.roster.clone(), self.roster.chain().zero_grads)?;
        let Self { kernels, limits, buffers, state, launches, roster, .. } = self;
        let parts = Parts { device, kernels, limits, buffers, state };
        launches.prepare(&parts, &tensors, &places, roster)?;
        if let Some(decided) = &mut self.decided {
            decided.control = None;
        }
        if let Some(updates) = &mut self.updates {
            updates.moved();
        }
        (self.tensors, self.classified) = (tensors, true);
        Ok(())
    }

    /// Each tensor's places, numbered and free of overlaps; gradients are written where they are zeroed.
    fn places(&mut self, tensors: &[Tensor], roster: &Roster<R>, zeroed: bool) -> Result<Vec<(Place, Place)>, Error> {
        tensors.iter().try_for_each(|tensor| self.state.check_apart(tensor))?;
        let mut place = |range: &BufferRange, format| range.place(self.buffers.number(range.buffer()), format);
        let mut places = Vec::with_capacity(tensors.len());
        for (tensor, member) in tensors.iter().zip(roster.members()) {
            let formats = roster.formats(member.group)?;
            places.push((place(&tensor.params, formats.params), place(&tensor.grads, formats.grads)));
        }
        let names: Vec<&str> = tensors.iter().map(Tensor::name).collect();
        check_overlaps(&names, &places, zeroed)?;
        Ok(places)
    }

    /// The formats of a group.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn formats(&self, group: usize) -> Result<&Formats, Error> {
        self.roster.formats(group)
    }

    /// The settings of each group.
    pub fn groups(&self) -> &[R] {
        self.roster.groups()
    }

    /// The settings of a group.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn settings(&self, group: usize) -> Result<&R, Error> {
        self.roster.group(group)
    }

    /// Gives a group other numbers from the next recorded step on. Costs no pipeline, no bind group of tensors,
    /// no wait, unless it turns a term of the update on or off (a `weight_decay` from or to 0): the next step then
    /// compiles the kernel that has it, once.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::Setting`], [`Error::Structure`] for a setting that decides which state
    /// is kept.
    pub fn retune(&mut self, group: usize, settings: R) -> Result<(), Error> {
        let switches = settings.switches();
        let same = self.roster.group(group)?.switches() == switches;
        self.roster.retune(group, settings)?;
        self.classified &= same;
        Ok(())
    }

    /// Leaves the named tensors, their state and their step counts alone until they are thawed, as PyTorch does
    /// for a gradient that is `None`.
    ///
    /// # Errors
    /// [`Error::UnknownName`]; none is frozen then.
    pub fn freeze<S: AsRef<str>>(&mut self, names: impl IntoIterator<Item = S>) -> Result<(), Error> {
        self.set_frozen(names, true)
    }

    /// Steps the named tensors again.
    ///
    /// # Errors
    /// [`Error::UnknownName`]; none is thawed then.
    pub fn thaw<S: AsRef<str>>(&mut self, names: impl IntoIterator<Item = S>) -> Result<(), Error> {
        self.set_frozen(names, false)
    }

    fn set_frozen<S: AsRef<str>>(&mut self, names: impl IntoIterator<Item = S>, frozen: bool) -> Result<(), Error> {
        let tensors = self.roster.find_all(names)?;
        if self.roster.set_frozen(&tensors, frozen) {
            self.classified = false;
        }
        Ok(())
    }

    /// How many steps of the tensor have been recorded.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn step_of(&self, name: &str) -> Result<u64, Error> {
        Ok(self.roster.step_of(self.roster.find(name)?))
    }

    /// Sets how many steps the tensor has taken: the next is `step + 1`.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn set_step(&mut self, name: &str, step: u64) -> Result<(), Error> {
        let tensor = self.roster.find(name)?;
        self.set_steps(tensor..tensor + 1, step);
        Ok(())
    }

    /// [`set_step`](Self::set_step) for every tensor.
    pub fn set_all_steps(&mut self, step: u64) {
        self.set_steps(0..self.tensors.len(), step);
    }

    fn set_steps(&mut self, tensors: std::ops::Range<usize>, step: u64) {
        self.roster.set_step(tensors.clone(), step);
        self.classified = false;
        self.tell_steps(tensors.map(|tensor| (tensor, step)));
    }

    /// Has the next step tell the device how many steps these tensors have taken.
    fn tell_steps(&mut self, counts: impl IntoIterator<Item = (usize, u64)>) {
        if let Some(decided) = &mut self.decided {
            let count = |(tensor, step): (usize, u64)| (tensor as u32, step.try_into().unwrap_or(u32::MAX));
            let told: BTreeMap<u32, u32> = decided.sets.drain(..).chain(counts.into_iter().map(count)).collect();
            decided.sets = told.into_iter().collect();
        }
    }

    /// The tensors, in the order in which they were added.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Dispatches of a step.
    pub fn dispatches(&self) -> usize {
        self.launches.steps().len()
    }
}
