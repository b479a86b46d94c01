//! A rule can be written outside the crate: settings, scalars, one update in two tongues.

mod support;

use support::Gpu;
use support::paths::{Cpu, OnGpu, Path, Start};
use wgpu_optim::rule::{Rule, Scalars, Slots, Value};
use wgpu_optim::wgsl::{Lane, Real, select};
use wgpu_optim::{Error, envelope};

/// `b = momentum * b + g`, then a step of lr against the sign of `b`.
#[derive(Clone, Debug, PartialEq)]
struct SignMomentum {
    lr: f64,
    momentum: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Hyper<T> {
    lr: T,
    momentum: T,
}

impl<T: Real> Scalars<T> for Hyper<T> {
    const FIELDS: &'static [&'static str] = &["lr", "momentum"];
    fn from_fields(mut make: impl FnMut(usize) -> T) -> Self {
        Self { lr: make(0), momentum: make(1) }
    }
    fn fields(&self) -> Vec<T> {
        vec![self.lr, self.momentum]
    }
}

impl Rule for SignMomentum {
    const NAME: &'static str = "sign_momentum";
    const SLOTS: &'static [&'static str] = &["momentum_buffer"];
    const PRESETS: &'static [(&'static str, &'static str, Self)] = &[];
    const WGSL: &'static str = "
        struct Hyper { lr: f32, momentum: f32 }
        override PLANE_MOMENTUM_BUFFER: u32 = 0u;
        fn update(h: Hyper, at: At) {
            let p0 = load_params(at);
            let g0 = load_grads(at);
            let b0 = load_state(at, PLANE_MOMENTUM_BUFFER);
            let b = h.momentum * b0 + g0;
            let down = select(Lane(0.0), Lane(1.0), b > Lane(0.0));
            let up = select(Lane(0.0), Lane(1.0), b < Lane(0.0));
            store_params(at, p0 - h.lr * (down - up));
            store_state(at, PLANE_MOMENTUM_BUFFER, b);
        }";
    type Hyper<T: Real> = Hyper<T>;

    fn settings(&self) -> Vec<(&'static str, Value)> {
        vec![("lr", Value::Number(self.lr)), ("momentum", Value::Number(self.momentum))]
    }
    fn set(&mut self, setting: &str, value: Value) -> Result<(), Error> {
        match (setting, value) {
            ("lr", Value::Number(x)) => self.lr = x,
            ("momentum", Value::Number(x)) => self.momentum = x,
            (other, _) => {
                let (setting, known) = (other.into(), "lr, momentum".into());
                return Err(Error::UnknownSetting { rule: Self::NAME, setting, known });
            }
        }
        Ok(())
    }
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }
    fn structure(&self) -> Vec<(&'static str, Value)> {
        Vec::new()
    }
    fn keeps(&self, _slot: usize) -> bool {
        true
    }
    fn switches(&self) -> Vec<(&'static str, bool)> {
        Vec::new()
    }
    fn scalars(&self) -> Hyper<f64> {
        Hyper { lr: self.lr, momentum: self.momentum }
    }
    fn update<T: Real>(&self, h: &Hyper<T>, p0: T, g0: T, [b0, x, y]: Slots<T>) -> (T, Slots<T>) {
        let b = h.momentum * b0 + g0;
        let down: T = select(Lane(0.0), Lane(1.0), b > Lane(0.0));
        let up: T = select(Lane(0.0), Lane(1.0), b < Lane(0.0));
        (p0 - h.lr * (down - up), [b, x, y])
    }
    fn formula(&self) -> Vec<String> {
        vec!["b = momentum * b + g".into(), "p = p - lr * sign(b)".into()]
    }
    fn cases() -> Vec<(&'static str, Self)> {
        vec![("plain", SignMomentum { lr: 1e-2, momentum: 0.9 })]
    }
}

#[test]
fn a_rule_of_somebody_else_steps_like_its_twin() {
    let Some(gpu) = support::gpu() else { return };
    let rule = SignMomentum::cases()[0].1.clone();
    let probe = envelope::Probe::new(&rule, 1021, 3, false);
    let tensors = [Start { name: "w".into(), group: 0, params: probe.start.params.clone() }];
    let groups = [rule];
    let mut twin = Cpu::<SignMomentum, f32>::new(&groups, &tensors);
    let mut shader = OnGpu::new(&gpu, &groups, &tensors);
    for grads in &probe.grads {
        twin.step(&[Some(grads)]);
        shader.step(&[Some(grads)]);
    }
    let (twin, shader) = (&twin.params()[0], &shader.params()[0]);
    let apart = twin.iter().zip(shader).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart < 1e-6, "{apart}");
    let moved = twin.iter().zip(&probe.start.params).filter(|(a, b)| **a != f64::from(**b)).count();
    assert!(moved > 800, "only {moved} of 1021 elements moved");
    let Gpu { device, queue } = &gpu;
    let row = wgpu_optim::verify::run_case(device, queue, "plain", &groups[0]).unwrap();
    assert!(row.passed(), "{row:#?}");
}
