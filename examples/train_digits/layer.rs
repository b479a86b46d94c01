//! A linear layer: forward, and the gradients of its inputs and of its parameters.

use anyhow::Result;
use wgpu_optim::{Arena, wgpu};

use super::kernel::{BACKWARD_INPUTS, BACKWARD_WEIGHTS, FORWARD, Kernel};

/// A layer over all rows at once. Its parameters and gradients lie in the arena, by name.
pub struct Layer<'a> {
    pub device: &'a wgpu::Device,
    pub arena: &'a Arena,
    pub weight: &'a str,
    pub bias: &'a str,
    pub inputs: usize,
    pub outputs: usize,
    pub rows: u32,
}

impl Layer<'_> {
    /// `output` = `input` times the weights, plus the bias; with `relu` what is below 0 becomes 0.
    pub fn forward(&self, input: &wgpu::Buffer, output: &wgpu::Buffer, relu: bool) -> Result<Kernel> {
        let (weight, bias) = (self.arena.params(self.weight)?, self.arena.params(self.bias)?);
        let resources = [input.as_entire_binding(), weight.as_binding(), bias.as_binding(), output.as_entire_binding()];
        let constants = [self.sizes().as_slice(), &[("HAS_RELU", relu.into())]].concat();
        Kernel::new(self.device, &FORWARD, &constants, &resources, [self.outputs as u32, self.rows])
    }

    /// The gradient of `input`, which came out of a ReLU.
    pub fn backward_inputs(
        &self,
        grad_output: &wgpu::Buffer,
        input: &wgpu::Buffer,
        grad_input: &wgpu::Buffer,
    ) -> Result<Kernel> {
        let weight = self.arena.params(self.weight)?.as_binding();
        let resources =
            [grad_output.as_entire_binding(), weight, input.as_entire_binding(), grad_input.as_entire_binding()];
        Kernel::new(self.device, &BACKWARD_INPUTS, &self.sizes(), &resources, [self.inputs as u32, self.rows])
    }

    /// The gradients of the weights and of the bias.
    pub fn backward_weights(&self, grad_output: &wgpu::Buffer, input: &wgpu::Buffer) -> Result<Kernel> {
        let (weight, bias) = (self.arena.grads(self.weight)?, self.arena.grads(self.bias)?);
        let resources =
            [grad_output.as_entire_binding(), input.as_entire_binding(), weight.as_binding(), bias.as_binding()];
        // A workgroup for each output; the bias is one more column.
        let invocations = [self.inputs as u32 + 1, self.outputs as u32 * BACKWARD_WEIGHTS.workgroup[1]];
        Kernel::new(self.device, &BACKWARD_WEIGHTS, &self.sizes(), &resources, invocations)
    }

    fn sizes(&self) -> [(&'static str, f64); 3] {
        [("ROWS", self.rows.into()), ("INPUTS", self.inputs as f64), ("OUTPUTS", self.outputs as f64)]
    }
}
