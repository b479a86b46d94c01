//! Flat buffers to lend: tensors that lie side by side are stepped by one dispatch.

use std::collections::HashMap;

use crate::Error;
use crate::format::Formats;
use crate::kernel::{guarded, limits_of};
use crate::plan;
use crate::tensor::{BufferRange, Tensor};

/// One flat buffer for parameters and one for gradients (more where a device's buffers are too small), with an
/// aligned, named range in each for every tensor.
///
/// Ranges start at multiples of the device's binding alignment, so they can also be bound one by one. The
/// padding between them belongs to the arena, and is stepped with the tensor before it. All of it starts as zeros;
/// leave zeros in the gradients' padding where a [`Chain`](crate::Chain) measures gradients, since it is measured with
/// them.
#[derive(Debug)]
pub struct Arena {
    pages: Vec<(wgpu::Buffer, wgpu::Buffer)>,
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
}

impl Arena {
    /// Room for tensors given as names and lengths in elements, in `f32`.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::DuplicateName`], [`Error::TooLarge`] for a tensor that no buffer of the device
    /// can hold, [`Error::OutOfMemory`].
    pub fn new<'a>(device: &wgpu::Device, tensors: impl IntoIterator<Item = (&'a str, u64)>) -> Result<Self, Error> {
        Self::with_formats(device, &Formats::default(), tensors)
    }

    /// [`new`](Self::new), with parameters and gradients as these formats have them, which are those of the tensors'
    /// group.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_formats<'a>(
        device: &wgpu::Device,
        formats: &Formats,
        tensors: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> Result<Self, Error> {
        let limits = limits_of(device)?;
        let tensors: Vec<(&str, u64)> = tensors.into_iter().collect();
        let elements = [formats.params.size(), formats.grads.size()];
        let layouts = plan::arena_of(&tensors, elements, &limits)?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let page = |role: &str, size: u64| {
            let label = format!("wgpu-optim arena {role}");
            guarded(device, &format!("{label} of {size} bytes"), || {
                let label = Some(label.as_str());
                device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
            })
        };
        let mut arena = Self { pages: Vec::new(), tensors: Vec::new(), index: HashMap::new() };
        for (&params, &grads) in layouts[0].pages.iter().zip(&layouts[1].pages) {
            arena.pages.push((page("params", params)?, page("grads", grads)?));
        }
        for (tensor, (name, _)) in tensors.iter().enumerate() {
            let range = |layout: &plan::ArenaLayout, role: fn(&(wgpu::Buffer, wgpu::Buffer)) -> &wgpu::Buffer| {
                let (span, room) = (layout.spans[tensor], layout.rooms[tensor]);
                BufferRange::padded(role(&arena.pages[span.buffer]), span.offset, span.size, room)
            };
            let own = Tensor::new(*name, range(&layouts[0], |page| &page.0), range(&layouts[1], |page| &page.1));
            arena.index.insert(name.to_string(), tensor);
            arena.tensors.push(own);
        }
        Ok(arena)
    }

    /// Every tensor, in the order given: what [`Optimizer::new`](crate::Optimizer::new) takes.
    pub fn tensors(&self) -> Vec<Tensor> {
        self.tensors.clone()
    }

    /// The range of a tensor's parameters.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn params(&self, name: &str) -> Result<&BufferRange, Error> {
        Ok(self.get(name)?.params())
    }

    /// The range of a tensor's gradient.
    ///
    /// # Errors
    /// [`Error::UnknownName`].
    pub fn grads(&self, name: &str) -> Result<&BufferRange, Error> {
        Ok(self.get(name)?.grads())
    }

    /// The flat buffers: (parameters, gradients) of each page.
    pub fn pages(&self) -> &[(wgpu::Buffer, wgpu::Buffer)] {
        &self.pages
    }

    fn get(&self, name: &str) -> Result<&Tensor, Error> {
        let tensor = self.index.get(name).map(|&tensor| &self.tensors[tensor]);
        tensor.ok_or_else(|| Error::UnknownName {
            name: name.into(),
            nearest: crate::roster::nearest(name, self.tensors.iter().map(Tensor::name)),
        })
    }
}
