//! Steps over listed rows.

use std::collections::HashSet;

use super::{Decided, Instead, Optimizer, Ready};
use crate::Error;
use crate::chain::{ACCUMULATED, EMA};
use crate::control::Control;
use crate::kernel::Work;
use crate::record::{Listing, Parts, Step, bind_scalars, bind_words, listed, stepping};
use crate::roster::Roster;
use crate::rows::Rows;
use crate::rule::Rule;
use crate::tensor::BufferRange;

/// Planes that `struct Start` of `reset.wgsl` has room for, and the words before those of planes.
const START: (usize, usize) = (8, 4);

/// What a kernel that does not step goes over, by the lanes of a step.
struct Over {
    step: Step,
    /// Whose settings it is for.
    tensor: usize,
    words: Vec<u32>,
}

impl<R: Rule> Optimizer<R> {
    /// Records one step in which each named tensor is stepped in the listed rows only, and counts it. A row that is not
    /// listed keeps its parameters and every slot bit for bit, as in `torch.optim.SparseAdam`; the step count is the tensor's,
    /// one more for the step. Tensors that are not named are stepped whole, as [`record`](Self::record) does: a model with an
    /// embedding has other layers besides, and one step is one step of all (freeze what is to be left alone). A frozen
    /// tensor is left alone, named or not.
    ///
    /// A clip by norm and a scaler look at the gradients of listed rows alone: what lies in the others may be old, or not
    /// finite. `zero_grads` clears those of listed rows, and a step takes the sums of listed rows out of `accumulated_grad`.
    ///
    /// Cost: the bytes of the listed rows, and 4 for each in the list; each lane reads the list. Rows whose length is a
    /// multiple of 4 go in quads, others element by element, which is slower; so is a list out of order, the more the shorter its
    /// rows are. On the host a bind group for each named tensor, or for each window of it; where steps are decided on the
    /// device, also the buffers of the norm.
    ///
    /// An encoder that is thrown away is as with [`record`](Self::record).
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::DuplicateName`], [`Error::NoRows`] for a tensor without a shape, what can be wrong with
    /// a range ([`Error::Misaligned`], [`Error::OutOfBounds`], [`Error::Usage`], [`Error::SameBuffer`]), [`Error::Limits`] for a
    /// list that no binding holds, [`Error::TooLarge`] for one of more than 2^32 elements, [`Error::SharedScale`] for a tensor
    /// with state of 8 bits, where a step of some rows would round others again; or as [`record`](Self::record). No step is
    /// counted then.
    pub fn record_rows<'a>(
        &mut self,
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
        rows: impl IntoIterator<Item = (&'a str, Rows)>,
    ) -> Result<(), Error> {
        let named = self.named_rows(device, rows)?;
        let Some(ready) = self.next_rows(device, &named)? else { return Ok(()) };
        self.pass(encoder, &ready);
        self.advance();
        Ok(())
    }

    /// [`accumulate`](Self::accumulate), in which each named tensor takes part by the listed rows only: the sums of the others
    /// stay as they are.
    ///
    /// # Errors
    /// As [`record_rows`](Self::record_rows) and [`accumulate`](Self::accumulate).
    pub fn accumulate_rows<'a>(
        &mut self,
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
        weight: f64,
        rows: impl IntoIterator<Item = (&'a str, Rows)>,
    ) -> Result<(), Error> {
        let named = self.named_rows(device, rows)?;
        self.classify(device)?;
        if !self.tensors.is_empty() {
            self.roster.plane(0, ACCUMULATED)?;
        }
        let firsts: Vec<usize> = self.roster.classes().map(|class| class.first).collect();
        let words = vec![(weight as f32).to_bits()];
        let over = |step: Step| Over { tensor: firsts[step.class as usize], step, words: words.clone() };
        let over: Vec<Over> = self.steps_with_rows(device, &named)?.into_iter().map(over).collect();
        self.dispatch_over(device, encoder, Work::Accumulate, &over)
    }

    /// Records that the listed rows' state is put back to where it starts, in place: the rule's slots, `accumulated_grad`,
    /// and `ema`, which starts from the parameters as they are then. Parameters and step counts stay as they are.
    ///
    /// What is kept of parameters of 16 bits besides, `master_param` or `kahan_comp`, starts again, too: the next step takes
    /// them as they then lie in their buffer, so that rows may be written and reset together.
    ///
    /// # Errors
    /// As [`record_rows`](Self::record_rows).
    pub fn reset_rows<'a>(
        &mut self,
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
        rows: impl IntoIterator<Item = (&'a str, Rows)>,
    ) -> Result<(), Error> {
        let named = self.named_rows(device, rows)?;
        self.classify(device)?;
        let mut over = Vec::new();
        for one in &named {
            let words = self.start_words(one.0);
            let steps = self.rows_alone(device, std::slice::from_ref(one), |_, _| Work::Reset)?;
            over.extend(steps.into_iter().map(|step| Over { step, tensor: one.0, words: words.clone() }));
        }
        self.dispatch_over(device, encoder, Work::Reset, &over)
    }

    /// `struct Start` of `reset.wgsl`.
    fn start_words(&self, tensor: usize) -> Vec<u32> {
        let (stored, (most, before)) = (self.roster.stored(tensor), START);
        let average = stored.planes.iter().position(|plane| plane.slot == EMA).unwrap_or(stored.planes.len());
        let mut words = vec![stored.planes.len() as u32, average as u32];
        words.resize(before, 0);
        words.extend(stored.planes.iter().map(|plane| (self.roster.initial(tensor, plane.slot) as f32).to_bits()));
        words.resize(before + most, 0);
        words.extend(stored.places().iter().map(|place| *place as u32));
        words.resize(before + 2 * most, 0);
        words
    }

    /// Dispatches one kind of kernel over these.
    fn dispatch_over(
        &self,
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
        work: Work,
        over: &[Over],
    ) -> Result<(), Error> {
        let Self { kernels, limits, roster, .. } = self;
        let label = format!("wgpu-optim {} {}", R::NAME, work.entry());
        let ready = |Over { step, tensor, words }: &Over| {
            let pipeline =
                kernels.pipeline(work, roster.settings_of(*tensor), roster.chain(), &step.stored, step.walk)?;
            Ok((pipeline, bind_words(device, &label, kernels, limits, words)?))
        };
        let ready = over.iter().map(ready).collect::<Result<Vec<_>, Error>>()?;
        let descriptor = wgpu::ComputePassDescriptor { label: Some(&label), timestamp_writes: None };
        let mut pass = encoder.begin_compute_pass(&descriptor);
        for (over, (pipeline, own)) in over.iter().zip(&ready) {
            over.step.dispatch(&mut pass, pipeline, own, 0);
        }
        Ok(())
    }

    /// The named tensors, all found and their lists checked.
    fn named_rows<'a>(
        &self,
        device: &wgpu::Device,
        rows: impl IntoIterator<Item = (&'a str, Rows)>,
    ) -> Result<Vec<(usize, Rows)>, Error> {
        self.kernels.check_device(device)?;
        let mut named = Vec::new();
        let mut seen = HashSet::new();
        for (name, rows) in rows {
            if !seen.insert(name) {
                return Err(Error::DuplicateName { name: name.into() });
            }
            let tensor = self.roster.find(name)?;
            self.tensors[tensor].rows()?;
            self.roster.check_listed(tensor)?;
            self.state.check_list(&rows, name)?;
            rows.check(&self.tensors[tensor], self.limits.binding, self.limits.alignment)?;
            named.push((tensor, rows));
        }
        Ok(named)
    }

    /// What the next step is dispatched with, or nothing where every tensor is frozen.
    fn next_rows(&mut self, device: &wgpu::Device, named: &[(usize, Rows)]) -> Result<Option<Ready>, Error> {
        self.classify(device)?;
        if self.roster.classes().next().is_none() {
            return Ok(None);
        }
        let steps = self.steps_with_rows(device, named)?;
        let Self { kernels, limits, buffers, state, roster, .. } = self;
        let parts = Parts { device, kernels, limits, buffers, state };
        let Some(Decided { memory, sets, .. }) = &self.decided else {
            let scalars = bind_scalars(device, kernels, limits, (&*roster, false))?;
            return Ok(Some(Ready {
                orders: None,
                scalars,
                instead: Some(Instead { steps, control: None }),
                watched: false,
            }));
        };
        let control = Control::prepare(&parts, &steps, roster)?;
        let orders = Some(control.orders(&parts, memory, roster, sets)?);
        let scalars = control.scalars.clone();
        Ok(Some(Ready { orders, scalars, instead: Some(Instead { steps, control: Some(control) }), watched: false }))
    }

    /// The dispatches of every tensor, of the named ones by their rows.
    fn steps_with_rows(&mut self, device: &wgpu::Device, named: &[(usize, Rows)]) -> Result<Vec<Step>, Error> {
        let left_out: Vec<usize> = named.iter().map(|(tensor, _)| *tensor).collect();
        let Self { kernels, limits, buffers, state, launches, roster, .. } = self;
        let parts = Parts { device, kernels, limits, buffers, state };
        let mut steps = launches.without(&parts, roster, &left_out)?;
        let stepped: Vec<_> = named.iter().filter(|(tensor, _)| !self.roster.is_frozen(*tensor)).cloned().collect();
        steps.extend(self.rows_alone(device, &stepped, stepping)?);
        Ok(steps)
    }

    /// The dispatches of the named rows, of the work that a group needs.
    fn rows_alone(
        &mut self,
        device: &wgpu::Device,
        named: &[(usize, Rows)],
        work: impl Fn(&Roster<R>, usize) -> Work,
    ) -> Result<Vec<Step>, Error> {
        let Self { kernels, limits, buffers, state, roster, tensors, .. } = self;
        let mut listings = Vec::with_capacity(named.len());
        for (tensor, rows) in named {
            let (own, group) = (&tensors[*tensor], roster.members()[*tensor].group);
            let formats = roster.formats(group)?;
            let mut place = |range: &BufferRange, format| range.place(buffers.number(range.buffer()), format);
            let places = (place(&own.params, formats.params), place(&own.grads, formats.grads));
            listings.push(Listing { tensor: *tensor, rows, places, work: work(roster, group) });
        }
        listed(&Parts { device, kernels, limits, buffers, state }, roster, tensors, &listings)
    }
}
