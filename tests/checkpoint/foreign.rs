//! Rules from outside the crate: nothing is asked of them but what `Rule` says.

use wgpu_optim::checkpoint::{Checkpoint, Error, Extras, Load};
use wgpu_optim::rule::{Correction, Slots, Value};
use wgpu_optim::wgsl::Real;
use wgpu_optim::{Adam, Error as Refusal, Rule};

use crate::run::{OnCpu, Run, folder};

/// Adam without presets, under another name; with a point in the name of a slot where `POINT`.
#[derive(Clone, Debug, PartialEq)]
struct Bare<const POINT: bool>(Adam);

impl<const POINT: bool> Rule for Bare<POINT> {
    const NAME: &'static str = "bare";
    const SLOTS: &'static [&'static str] = if POINT { &["m.1", "m.2", "max"] } else { Adam::SLOTS };
    const WGSL: &'static str = Adam::WGSL;
    const PRESETS: &'static [(&'static str, &'static str, Self)] = &[];
    type Hyper<T: Real> = <Adam as Rule>::Hyper<T>;

    fn settings(&self) -> Vec<(&'static str, Value)> {
        self.0.settings()
    }
    fn set(&mut self, setting: &str, value: Value) -> Result<(), Refusal> {
        self.0.set(setting, value)
    }
    fn check(&self) -> Result<(), Refusal> {
        self.0.check()
    }
    fn structure(&self) -> Vec<(&'static str, Value)> {
        self.0.structure()
    }
    fn keeps(&self, slot: usize) -> bool {
        slot < 2
    }
    fn switches(&self) -> Vec<(&'static str, bool)> {
        self.0.switches()
    }
    fn scalars(&self) -> Self::Hyper<f64> {
        self.0.scalars()
    }
    fn corrections(&self) -> Vec<(&'static str, Correction)> {
        self.0.corrections()
    }
    fn betas(&self) -> [f64; 2] {
        self.0.betas()
    }
    fn update<T: Real>(&self, h: &Self::Hyper<T>, p0: T, g0: T, state: Slots<T>) -> (T, Slots<T>) {
        self.0.update(h, p0, g0, state)
    }
    fn formula(&self) -> Vec<String> {
        self.0.formula()
    }
    fn cases() -> Vec<(&'static str, Self)> {
        Vec::new()
    }
}

#[test]
fn a_rule_without_presets_is_saved_and_loaded() {
    let (_folder, path) = folder();
    let make = || OnCpu::new(&[Bare::<false>(Adam::PYTORCH)], &[("w", 5, 0)]);
    let mut run = make();
    run.step(1);
    run.save(&path, true, Extras::default()).unwrap();
    let mut again = make();
    again.load(&path).unwrap();
    assert_eq!(again.world(), run.world());
    let checkpoint = Checkpoint::open(&path).unwrap();
    let error = checkpoint.settings::<Bare<false>>().unwrap_err().to_string();
    assert!(error.ends_with("bare has no preset to read settings by"), "{error}");
    let mut other = OnCpu::new(&[Adam::PYTORCH], &[("w", 5, 0)]);
    let error = other.load_with(&checkpoint, Load::default(), false).unwrap_err().to_string();
    assert!(error.ends_with("it is of rule \"bare\", the optimizer is of \"adam\""), "{error}");
}

#[test]
fn what_has_no_counterpart_or_no_key_is_refused_by_name() {
    let (_folder, path) = folder();
    let error = OnCpu::new(&[Bare::<false>(Adam::PYTORCH)], &[("w", 5, 0)]).save_pytorch(&path).unwrap_err();
    assert!(error.to_string().ends_with("bare has no counterpart in PyTorch"), "{error}");
    let run = OnCpu::new(&[Bare::<true>(Adam::PYTORCH)], &[("w", 5, 0)]);
    let error = run.save(&path, true, Extras::default()).unwrap_err();
    assert!(matches!(error, Error::Unstorable { .. }), "{error:?}");
    assert!(error.to_string().contains("cannot hold the slot \"m.1\""), "{error}");
    assert!(!path.exists());
}
