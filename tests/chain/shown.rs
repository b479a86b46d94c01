//! A rule that hides nothing: it keeps the gradient as it was handed to it, and its corrected scalars.

use wgpu_optim::Error;
use wgpu_optim::rule::{Correction, Rule, Scalars, Slots, Value};
use wgpu_optim::wgsl::Real;

/// `p = p - g`. The slot `received` holds `g`; those of the biases, one over each bias of the step.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub betas: [f64; 2],
    /// Whether the slots of the biases are kept.
    pub biases: bool,
}

impl Shown {
    pub const GRADIENT: Self = Self { betas: [0.9, 0.999], biases: false };
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper<T> {
    one: T,
    over_first: T,
    over_second: T,
}

impl<T: Real> Scalars<T> for Hyper<T> {
    const FIELDS: &'static [&'static str] = &["one", "over_first", "over_second"];
    fn from_fields(mut make: impl FnMut(usize) -> T) -> Self {
        Self { one: make(0), over_first: make(1), over_second: make(2) }
    }
    fn fields(&self) -> Vec<T> {
        vec![self.one, self.over_first, self.over_second]
    }
}

impl Rule for Shown {
    const NAME: &'static str = "shown";
    const SLOTS: &'static [&'static str] = &["received", "over_first", "over_second"];
    const PRESETS: &'static [(&'static str, &'static str, Self)] = &[];
    const WGSL: &'static str = "
        struct Hyper { one: f32, over_first: f32, over_second: f32 }
        override HAS_BIASES: bool = false;
        override PLANE_RECEIVED: u32 = 0u;
        override PLANE_OVER_FIRST: u32 = 1u;
        override PLANE_OVER_SECOND: u32 = 2u;
        fn update(h: Hyper, at: At) {
            let p0 = load_params(at);
            let g0 = load_grads(at);
            store_params(at, p0 - h.one * g0);
            store_state(at, PLANE_RECEIVED, g0);
            if HAS_BIASES {
                store_state(at, PLANE_OVER_FIRST, h.over_first + Lane(0.0));
                store_state(at, PLANE_OVER_SECOND, h.over_second + Lane(0.0));
            }
        }";
    type Hyper<T: Real> = Hyper<T>;

    fn settings(&self) -> Vec<(&'static str, Value)> {
        vec![("biases", Value::Flag(self.biases))]
    }
    fn set(&mut self, setting: &str, _: Value) -> Result<(), Error> {
        Err(Error::UnknownSetting { rule: Self::NAME, setting: setting.into(), known: String::new() })
    }
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }
    fn structure(&self) -> Vec<(&'static str, Value)> {
        self.settings()
    }
    fn keeps(&self, slot: usize) -> bool {
        slot == 0 || self.biases
    }
    fn switches(&self) -> Vec<(&'static str, bool)> {
        vec![("HAS_BIASES", self.biases)]
    }
    fn scalars(&self) -> Hyper<f64> {
        Hyper { one: 1.0, over_first: 1.0, over_second: 1.0 }
    }
    fn corrections(&self) -> Vec<(&'static str, Correction)> {
        vec![("over_first", Correction::OverFirst), ("over_second", Correction::OverSecond)]
    }
    fn betas(&self) -> [f64; 2] {
        self.betas
    }
    fn update<T: Real>(&self, h: &Hyper<T>, p0: T, g0: T, [_, a, b]: Slots<T>) -> (T, Slots<T>) {
        let biases = if self.biases { [h.over_first, h.over_second] } else { [a, b] };
        (p0 - h.one * g0, [g0, biases[0], biases[1]])
    }
    fn formula(&self) -> Vec<String> {
        vec!["p = p - g".into()]
    }
    fn cases() -> Vec<(&'static str, Self)> {
        vec![("gradient", Self::GRADIENT)]
    }
}
