//! What a rule is, and the list of them.
//!
//! A rule is a page: its settings, its folded scalars, its update. Nothing else in the crate knows one rule from
//! another; what walks over all of them does it through [`visit`].

mod adam;
mod correction;
mod rmsprop;
mod settings;

use std::fmt::Debug;

pub use adam::{Adam, AdamEpsilon, AdamW, AmsgradOver};
pub use correction::{Biases, Correction, bias, correct, log_beta};
pub use rmsprop::{RmsProp, RmsPropEpsilon};
pub use settings::{Decay, Value, Word};
pub(crate) use settings::{Range, number, settings, words};

use crate::Error;
use crate::wgsl::Real;

/// Calls `visitor` with every rule of the crate.
pub fn visit<V: Visitor>(visitor: &mut V) {
    visitor.rule::<Adam>();
    visitor.rule::<RmsProp>();
}

/// What walks the list of rules.
pub trait Visitor {
    /// Is called once for each rule.
    fn rule<R: Rule>(&mut self);
}

/// The most state slots a rule may keep for a parameter.
pub const MAX_SLOTS: usize = 3;

/// The values of a parameter's slots, in the order of [`Rule::SLOTS`]; those it does not keep are zero.
pub type Slots<T> = [T; MAX_SLOTS];

/// The settings of an optimizer, and the step they describe.
///
/// A rule can be written outside the crate. Its WGSL is laid behind `shaders/step.wgsl` and the lanes, and holds:
///
/// - `struct Hyper { … }`: the fields of [`Hyper`](Rule::Hyper), all `f32`, in the same order;
/// - `override HAS_…: bool` for each of [`switches`](Rule::switches), and `override PLANE_<SLOT>: u32` for each of
///   [`SLOTS`](Rule::SLOTS), in capitals;
/// - `fn update(h: Hyper, at: At)`, which reads with `load_params(at)`, `load_grads(at)` and
///   `load_state(at, PLANE_<SLOT>)` and writes with `store_params(at, p)` and `store_state(at, PLANE_<SLOT>, s)`.
///   `load_grads` and `store_params` are called once each: a [`Chain`](crate::Chain) takes the gradient in the one and
///   averages the parameter in the other.
///
/// Values are of type `Lane`, which is `vec4<f32>` or `f32`: arithmetic mixes it with scalars, `select` and `max` want
/// `Lane(0.0)` for a literal. [`update`](Rule::update) does the same for one element in `f32` and `f64`, and
/// `verify::run_case` compares the two.
pub trait Rule: Clone + Debug + PartialEq + Send + Sync + 'static {
    /// The name in files, labels and messages: `adam`.
    const NAME: &'static str;
    /// Every slot that the rule can keep, under PyTorch's names.
    const SLOTS: &'static [&'static str];
    /// The update in WGSL, as described above: `shaders/rule/NAME.wgsl` for a rule of this crate.
    const WGSL: &'static str;
    /// The named constants: (rule name, framework, settings).
    const PRESETS: &'static [(&'static str, &'static str, Self)];

    /// The setting that schedules cycle along with lr, if there is one.
    const CYCLED: Option<&'static str> = None;

    /// The scalars of one step, in the order of the shader's `struct Hyper`.
    type Hyper<T: Real>: Scalars<T>;

    /// Every setting with its value, under the name it has in files.
    fn settings(&self) -> Vec<(&'static str, Value)>;

    /// Sets one setting by its name. Nothing is checked but the kind of value: see [`check`](Rule::check).
    ///
    /// # Errors
    /// [`Error::UnknownSetting`], or [`Error::Setting`] for a value of the wrong kind.
    fn set(&mut self, setting: &str, value: Value) -> Result<(), Error>;

    /// Refuses settings outside their ranges.
    ///
    /// # Errors
    /// [`Error::Setting`] with the first setting that is.
    fn check(&self) -> Result<(), Error>;

    /// The settings that decide which slots are kept and what they mean. They stay what they were when the
    /// optimizer was built.
    fn structure(&self) -> Vec<(&'static str, Value)>;

    /// Whether these settings keep the slot `Self::SLOTS[slot]`.
    fn keeps(&self, slot: usize) -> bool;

    /// Whether the slot `Self::SLOTS[slot]` can hold numbers below 0: storage of few bits spends a code on the sign.
    fn is_signed(_slot: usize) -> bool {
        true
    }

    /// Why the slot `Self::SLOTS[slot]` must lie in 32 bits with these settings, and what to do about it; nothing where
    /// it may be rounded.
    fn must_be_full(&self, _slot: usize) -> Option<&'static str> {
        None
    }

    /// What the slot holds before the first step.
    fn initial(&self, _slot: usize) -> f64 {
        0.0
    }

    /// The shader's `override HAS_…` switches.
    fn switches(&self) -> Vec<(&'static str, bool)>;

    /// The scalars of a step, before [`corrections`](Self::corrections).
    fn scalars(&self) -> Self::Hyper<f64>;

    /// Which scalars depend on the step count, and how; none where nothing is said.
    fn corrections(&self) -> Vec<(&'static str, Correction)> {
        Vec::new()
    }

    /// The two betas whose biases the corrections take.
    fn betas(&self) -> [f64; 2] {
        [0.0; 2]
    }

    /// The scalars of step `step` (the first is 1), in `f64`: the cast to `f32` is the caller's, and the last act.
    fn fold(&self, step: u64) -> Self::Hyper<f64> {
        let (scalars, how) = (self.scalars().fields(), corrections_by_field(self));
        let biases = Biases::of(self.betas(), step);
        Self::Hyper::from_fields(|field| correct(scalars[field], how[field], &biases))
    }

    /// One element's step: the parameter, the gradient and the slots before it, to the parameter and slots after.
    /// Of the settings it reads what [`switches`](Self::switches) tells and nothing else, as the shader does: all
    /// numbers are in `h`.
    fn update<T: Real>(&self, h: &Self::Hyper<T>, p0: T, g0: T, state: Slots<T>) -> (T, Slots<T>);

    /// The update as a formula with these settings put in, one line for each assignment.
    fn formula(&self) -> Vec<String>;

    /// The settings that `verify` and the tests try: together they reach every scalar and every switch.
    fn cases() -> Vec<(&'static str, Self)>;
}

/// A rule's scalars for one step: a struct of numbers of one type.
pub trait Scalars<T: Real>: Copy + Debug + PartialEq + Send + Sync {
    /// The names of the fields, in order.
    const FIELDS: &'static [&'static str];
    /// Calls `make` for each field in order.
    fn from_fields(make: impl FnMut(usize) -> T) -> Self;
    /// The values of the fields, in order.
    fn fields(&self) -> Vec<T>;
}

/// Casts scalars: `f64` to the `f32` that a shader reads.
pub fn cast<A: Real, B: Real, X: Scalars<A>, Y: Scalars<B>>(scalars: &X) -> Y {
    let fields = scalars.fields();
    Y::from_fields(|i| B::from_f64(fields[i].to_f64()))
}

/// Declares the struct of a rule's scalars.
///
/// All fields are one number of 4 bytes in the shader, so order is layout; `tests/contract.rs` holds the two to it.
macro_rules! scalars {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[repr(C)]
        pub struct $name<T> { $($(#[$field_doc])* pub $field: T,)* }

        impl<T: $crate::wgsl::Real> $crate::rule::Scalars<T> for $name<T> {
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),*];
            fn from_fields(mut make: impl FnMut(usize) -> T) -> Self {
                let mut next = 0..;
                $(let $field = make(next.next().unwrap_or_default());)*
                Self { $($field),* }
            }
            fn fields(&self) -> Vec<T> {
                vec![$(self.$field),*]
            }
        }
    };
}
pub(crate) use scalars;

/// How each scalar of a rule depends on the step count, in the order of the fields.
pub fn corrections_by_field<R: Rule>(rule: &R) -> Vec<Correction> {
    let given = rule.corrections();
    let how = |field: &&str| given.iter().find(|(name, _)| name == field).map_or(Correction::None, |(_, how)| *how);
    <R::Hyper<f64> as Scalars<f64>>::FIELDS.iter().map(how).collect()
}

/// The indices of the slots that `rule` keeps.
pub fn kept_slots<R: Rule>(rule: &R) -> Vec<usize> {
    (0..R::SLOTS.len()).filter(|&slot| rule.keeps(slot)).collect()
}

/// The number of the first group that keeps the same state in the same way: the state of both may lie in one window.
pub fn variant<R: Rule>(groups: &[R], group: usize) -> usize {
    let structure = groups[group].structure();
    groups.iter().position(|other| other.structure() == structure).unwrap_or(group)
}
