//! The network: 64 pixels, 32 hidden units with ReLU, 10 classes. Forward and backward, as dispatches.

use anyhow::{Result, ensure};
use wgpu_optim::{Arena, wgpu};

use super::data::{self, CLASSES, Digits, PIXELS};
use super::kernel::{BACKWARD_INPUTS, BACKWARD_WEIGHTS, CROSS_ENTROPY, FORWARD, Kernel, TALLY};

const HIDDEN: usize = 32;

/// The parameters by name, with their shapes: weights are [out, in], as PyTorch has them.
pub const TENSORS: [(&str, &[usize]); 4] = [
    ("fc1.weight", &[HIDDEN, PIXELS]),
    ("fc1.bias", &[HIDDEN]),
    ("fc2.weight", &[CLASSES, HIDDEN]),
    ("fc2.bias", &[CLASSES]),
];

const FC1: Layer = Layer { weight: "fc1.weight", bias: "fc1.bias", inputs: PIXELS as u32, outputs: HIDDEN as u32 };
const FC2: Layer = Layer { weight: "fc2.weight", bias: "fc2.bias", inputs: HIDDEN as u32, outputs: CLASSES as u32 };

struct Layer {
    weight: &'static str,
    bias: &'static str,
    inputs: u32,
    outputs: u32,
}

/// The network on a device, over all digits at once.
pub struct Model {
    /// Parameters and gradients, by the names in [`TENSORS`].
    pub arena: Arena,
    /// Two `f32`: the mean cross-entropy of the last forward pass, and the share of digits that it knew.
    pub tally: wgpu::Buffer,
    forward: Vec<Kernel>,
    backward: Vec<Kernel>,
}

impl Model {
    /// Puts the digits and the starting weights on the device and compiles the kernels.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue, digits: &Digits) -> Result<Self> {
        let lengths = TENSORS.map(|(name, shape)| (name, shape.iter().product::<usize>() as u64));
        let arena = Arena::new(device, lengths)?;
        upload_start(queue, &arena)?;
        let rows = digits.rows();
        let buffers = Buffers::new(device, rows);
        queue.write_buffer(&buffers.pixels, 0, bytemuck::cast_slice(&digits.pixels));
        queue.write_buffer(&buffers.labels, 0, bytemuck::cast_slice(&digits.labels));
        let plan = Plan { device, arena: &arena, buffers: &buffers, rows };
        let (forward, backward) = (plan.forward()?, plan.backward()?);
        Ok(Self { tally: buffers.tally, arena, forward, backward })
    }

    /// Records logits, losses and the tally.
    pub fn record_forward(&self, encoder: &mut wgpu::CommandEncoder) {
        record(encoder, "train_digits forward", &self.forward);
    }

    /// Records the gradient of every parameter, of the forward pass recorded last. They overwrite what was there, so
    /// nothing has to be cleared between steps.
    pub fn record_backward(&self, encoder: &mut wgpu::CommandEncoder) {
        record(encoder, "train_digits backward", &self.backward);
    }
}

fn record(encoder: &mut wgpu::CommandEncoder, label: &str, kernels: &[Kernel]) {
    let descriptor = wgpu::ComputePassDescriptor { label: Some(label), timestamp_writes: None };
    let mut pass = encoder.begin_compute_pass(&descriptor);
    kernels.iter().for_each(|kernel| kernel.dispatch(&mut pass));
}

fn upload_start(queue: &wgpu::Queue, arena: &Arena) -> Result<()> {
    for (name, _) in TENSORS {
        let (values, range) = (data::start(name)?, arena.params(name)?);
        let (found, expected) = (values.len() as u64, range.len());
        ensure!(found == expected, "{found} values for {name:?}, which has {expected}");
        queue.write_buffer(range.buffer(), range.offset(), bytemuck::cast_slice(&values));
    }
    Ok(())
}

/// What lies between the layers, a row for each digit.
struct Buffers {
    pixels: wgpu::Buffer,
    labels: wgpu::Buffer,
    hidden: wgpu::Buffer,
    logits: wgpu::Buffer,
    grad_hidden: wgpu::Buffer,
    grad_logits: wgpu::Buffer,
    scores: wgpu::Buffer,
    tally: wgpu::Buffer,
}

impl Buffers {
    fn new(device: &wgpu::Device, rows: u32) -> Self {
        let buffer = |label: &str, words: u64| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(&format!("train_digits {label}")),
                size: 4 * words,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let wide = |label: &str, columns: usize| buffer(label, u64::from(rows) * columns as u64);
        Self {
            pixels: wide("pixels", PIXELS),
            labels: wide("labels", 1),
            hidden: wide("hidden", HIDDEN),
            logits: wide("logits", CLASSES),
            grad_hidden: wide("grad_hidden", HIDDEN),
            grad_logits: wide("grad_logits", CLASSES),
            scores: wide("scores", 2),
            tally: buffer("tally", 2),
        }
    }
}

/// From which the kernels are made.
struct Plan<'a> {
    device: &'a wgpu::Device,
    arena: &'a Arena,
    buffers: &'a Buffers,
    rows: u32,
}

impl Plan<'_> {
    fn forward(&self) -> Result<Vec<Kernel>> {
        let Buffers { pixels, hidden, logits, .. } = self.buffers;
        let fc1 = self.layer_forward(&FC1, pixels, hidden, true)?;
        let fc2 = self.layer_forward(&FC2, hidden, logits, false)?;
        Ok(vec![fc1, fc2, self.cross_entropy()?, self.tally()?])
    }

    /// Pixels need no gradient, so the first layer has none for its inputs.
    fn backward(&self) -> Result<Vec<Kernel>> {
        let Buffers { pixels, hidden, grad_hidden, grad_logits, .. } = self.buffers;
        let fc2 = self.layer_backward_weights(&FC2, grad_logits, hidden)?;
        let relu = self.layer_backward_inputs(&FC2, grad_logits, hidden, grad_hidden)?;
        let fc1 = self.layer_backward_weights(&FC1, grad_hidden, pixels)?;
        Ok(vec![fc2, relu, fc1])
    }

    fn layer_forward(&self, layer: &Layer, input: &wgpu::Buffer, output: &wgpu::Buffer, relu: bool) -> Result<Kernel> {
        let (weight, bias) = (self.arena.params(layer.weight)?, self.arena.params(layer.bias)?);
        let resources = [input.as_entire_binding(), weight.as_binding(), bias.as_binding(), output.as_entire_binding()];
        let constants = [self.sizes(layer).as_slice(), &[("HAS_RELU", relu.into())]].concat();
        Kernel::new(self.device, &FORWARD, &constants, &resources, [layer.outputs, self.rows])
    }

    fn layer_backward_inputs(
        &self,
        layer: &Layer,
        grad_output: &wgpu::Buffer,
        input: &wgpu::Buffer,
        grad_input: &wgpu::Buffer,
    ) -> Result<Kernel> {
        let weight = self.arena.params(layer.weight)?.as_binding();
        let resources =
            [grad_output.as_entire_binding(), weight, input.as_entire_binding(), grad_input.as_entire_binding()];
        Kernel::new(self.device, &BACKWARD_INPUTS, &self.sizes(layer), &resources, [layer.inputs, self.rows])
    }

    fn layer_backward_weights(
        &self,
        layer: &Layer,
        grad_output: &wgpu::Buffer,
        input: &wgpu::Buffer,
    ) -> Result<Kernel> {
        let (weight, bias) = (self.arena.grads(layer.weight)?, self.arena.grads(layer.bias)?);
        let resources =
            [grad_output.as_entire_binding(), input.as_entire_binding(), weight.as_binding(), bias.as_binding()];
        // A workgroup for each output; the bias is one more column.
        let invocations = [layer.inputs + 1, layer.outputs * BACKWARD_WEIGHTS.workgroup[1]];
        Kernel::new(self.device, &BACKWARD_WEIGHTS, &self.sizes(layer), &resources, invocations)
    }

    fn cross_entropy(&self) -> Result<Kernel> {
        let Buffers { logits, labels, grad_logits, scores, .. } = self.buffers;
        let resources = [logits, labels, grad_logits, scores].map(wgpu::Buffer::as_entire_binding);
        let constants = [("ROWS", self.rows.into()), ("CLASSES", CLASSES as f64)];
        Kernel::new(self.device, &CROSS_ENTROPY, &constants, &resources, [self.rows, 1])
    }

    fn tally(&self) -> Result<Kernel> {
        let resources = [&self.buffers.scores, &self.buffers.tally].map(wgpu::Buffer::as_entire_binding);
        Kernel::new(self.device, &TALLY, &[("ROWS", self.rows.into())], &resources, [1, 1])
    }

    fn sizes(&self, layer: &Layer) -> [(&'static str, f64); 3] {
        [("ROWS", self.rows.into()), ("INPUTS", layer.inputs.into()), ("OUTPUTS", layer.outputs.into())]
    }
}
