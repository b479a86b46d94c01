//! Telemetry as events: one for each reading, when it is handed out, with the fields of the struct.

mod support;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use support::Gpu;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use wgpu_optim::{Adam, Chain, Clip, Group, Kernels, Optimizer, Scaler, Telemetry, Tensor, Watch, wgpu};

/// An event: its level, its target, its fields as they print.
type Seen = (Level, String, BTreeMap<&'static str, String>);

/// Keeps every event.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Vec<Seen>>>);

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Subscriber for Ear {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        self.0.lock().unwrap().push((*metadata.level(), metadata.target().into(), fields.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Steps one tensor of four elements once with each of these gradients, and what is then told, and heard.
fn heard(gpu: &Gpu, chain: Chain, watch: Watch, grads: &[f32]) -> (Vec<Telemetry>, Vec<Seen>) {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
    let descriptor = wgpu::BufferDescriptor { label: None, size: 16, usage, mapped_at_creation: false };
    let [params, gradient] = [(), ()].map(|()| gpu.device.create_buffer(&descriptor));
    let group = Group::new(Adam { lr: 0.25, ..Adam::PYTORCH }, [Tensor::new("w", &params, &gradient)]);
    let kernels = Kernels::new(&gpu.device).unwrap();
    let mut optimizer = Optimizer::with_chain(&gpu.device, &kernels, chain, [group]).unwrap();
    optimizer.watch(&gpu.device, watch).unwrap();
    for &grad in grads {
        gpu.queue.write_buffer(&gradient, 0, bytemuck::cast_slice(&[grad; 4]));
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        optimizer.record(&gpu.device, &mut encoder).unwrap();
        gpu.queue.submit([encoder.finish()]);
    }
    let (ear, start, mut told) = (Ear::default(), Instant::now(), Vec::new());
    // The device is shared: another test's poll may have taken what is about to be told.
    while told.len() < grads.len() && start.elapsed().as_secs() < 10 {
        gpu.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        told.extend(tracing::subscriber::with_default(ear.clone(), || optimizer.telemetry()));
    }
    let own = |seen: &Seen| seen.1 == "wgpu_optim";
    let seen = ear.0.lock().unwrap().iter().filter(|seen| own(seen)).cloned().collect();
    (told, seen)
}

#[test]
fn each_reading_is_an_event_with_the_fields_of_the_struct() {
    let Some(gpu) = support::gpu() else { return };
    let scaler = Some(Scaler { init_scale: 8.0, ..Scaler::PYTORCH });
    let chain = Chain { scaler, clip: Some(Clip::global_norm(1.0)), ..Chain::default() };
    let (told, seen) = heard(&gpu, chain, Watch { depth: 4, updates: true }, &[4.0, f32::INFINITY]);
    let levels = seen.iter().map(|(level, ..)| *level).collect::<Vec<_>>();
    assert_eq!(levels, [Level::DEBUG, Level::INFO]);
    assert_eq!(told.len(), 2);
    for (told, (.., fields)) in told.iter().zip(&seen) {
        let some = |x: Option<f32>| format!("{:?}", f64::from(x.unwrap()));
        let expected = [
            ("number", told.number.to_string()),
            ("lr", "0.25".into()),
            ("skipped", told.skipped.to_string()),
            ("grad_norm", some(told.grad_norm)),
            ("clip", some(Some(told.clip))),
            ("scale", "8.0".into()),
            ("nonfinite", told.nonfinite.unwrap().to_string()),
            ("all_skipped", told.all_skipped.to_string()),
            ("update_norm", some(told.update_norm)),
            ("largest_update", some(told.largest_update)),
            ("message", if told.skipped { "step skipped".into() } else { "step taken".into() }),
        ];
        assert_eq!(*fields, BTreeMap::from(expected));
    }
    assert_eq!((seen[1].2["nonfinite"].as_str(), seen[1].2["update_norm"].as_str()), ("4", "0.0"));
}

#[test]
fn what_is_not_measured_is_no_field_and_what_is_not_finite_is_a_warning() {
    let Some(gpu) = support::gpu() else { return };
    let (told, seen) = heard(&gpu, Chain::default(), Watch { depth: 4, updates: true }, &[1.0, f32::NAN]);
    assert_eq!(told.len(), 2);
    assert_eq!(seen.iter().map(|(level, ..)| *level).collect::<Vec<_>>(), [Level::DEBUG, Level::WARN]);
    let absent = |name: &str| !seen[0].2.contains_key(name);
    assert!(absent("grad_norm") && absent("nonfinite") && !absent("update_norm"), "{seen:?}");
    assert_eq!(seen[1].2["largest_update"], "inf");
    let clip = Chain { clip: Some(Clip::global_norm(1.0)), ..Chain::default() };
    let (_, seen) = heard(&gpu, clip, Watch::from(2), &[f32::NAN]);
    assert_eq!(seen.iter().map(|(level, ..)| *level).collect::<Vec<_>>(), [Level::WARN]);
    assert!(!seen[0].2.contains_key("update_norm"));
}

/// Nothing runs behind the caller: where nobody asks, nothing is emitted, and what is told is emitted once.
#[test]
fn events_come_when_telemetry_is_asked_for_and_once() {
    let Some(gpu) = support::gpu() else { return };
    let ear = Ear::default();
    let (told, seen) = tracing::subscriber::with_default(ear.clone(), || {
        heard(&gpu, Chain::default(), Watch { depth: 1, updates: true }, &[1.0])
    });
    assert_eq!((told.len(), seen.len()), (1, 1));
    assert!(ear.0.lock().unwrap().iter().all(|(_, target, _)| target != "wgpu_optim"), "emitted while it was recorded");
}
