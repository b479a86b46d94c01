//! How scalars depend on the step count: the part of a fold that can run where the count is.
//!
//! On the host it runs in `f64`. Where loss scaling leaves steps out, the count lives on the device, and the same
//! text runs there in `f32` (`shaders/chain/control.wgsl`).

use crate::wgsl::{Real, exp, select, sqrt};

/// How a scalar depends on the biases `1 - beta^t` of a step `t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Correction {
    /// Not at all.
    None = 0,
    /// Divided by the first beta's.
    OverFirst = 1,
    /// Times the first beta's, divided by the one that it has a step later.
    Ahead = 2,
    /// Divided by the second beta's.
    OverSecond = 3,
    /// Divided by the root of the second beta's.
    OverRootSecond = 4,
    /// Times the second beta's.
    TimesSecond = 5,
    /// Times the root of the second beta's.
    TimesRootSecond = 6,
    /// That, and divided by the first beta's.
    RootSecondOverFirst = 7,
}

const OVER_FIRST: Correction = Correction::OverFirst;
const AHEAD: Correction = Correction::Ahead;
const OVER_SECOND: Correction = Correction::OverSecond;
const OVER_ROOT_SECOND: Correction = Correction::OverRootSecond;
const TIMES_SECOND: Correction = Correction::TimesSecond;
const TIMES_ROOT_SECOND: Correction = Correction::TimesRootSecond;
const ROOT_SECOND_OVER_FIRST: Correction = Correction::RootSecondOverFirst;

/// `1 - beta^t` of the two betas at one step, and the first's a step later.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Biases<T> {
    /// Of the first beta.
    pub first: T,
    /// Of the first beta, a step later.
    pub ahead: T,
    /// Of the second beta.
    pub second: T,
}

impl Biases<f64> {
    /// Those of a step, the first being 1.
    pub fn of([first, second]: [f64; 2], step: u64) -> Self {
        // `1 - beta.powf(step)` would cancel for a beta near 1.
        let bias = |beta: f64, step: u64| -(step as f64 * beta.ln()).exp_m1();
        Self { first: bias(first, step), ahead: bias(first, step.saturating_add(1)), second: bias(second, step) }
    }
}

/// A scalar at a step of these biases.
pub fn correct<T: Real>(x: T, how: Correction, b: &Biases<T>) -> T {
    // <correct>
    let f = select(x, x / b.first, how == OVER_FIRST);
    let a = select(f, x * (b.first / b.ahead), how == AHEAD);
    let s = select(a, x / b.second, how == OVER_SECOND);
    let r = select(s, x / sqrt(b.second), how == OVER_ROOT_SECOND);
    let t = select(r, x * b.second, how == TIMES_SECOND);
    let q = select(t, x * sqrt(b.second), how == TIMES_ROOT_SECOND);
    let corrected = select(q, x * (sqrt(b.second) / b.first), how == ROOT_SECOND_OVER_FIRST);
    // </correct>
    corrected
}

/// The device's `1 - beta^t` for `x = -t * ln(beta)`: a series where `1 - exp(-x)` would cancel.
///
/// Within 16 ULP of the host's `f64` for every beta and every `t` up to 2^24, which `tests/chain/bias.rs` shows. A
/// recurrence, `bias = bias * beta + (1 - beta)`, would be off by 500.
pub fn bias(x: f32) -> f32 {
    // <bias>
    let low = 1.0 - x / 5.0 * (1.0 - x / 6.0 * (1.0 - x / 7.0 * (1.0 - x / 8.0)));
    let series = x * (1.0 - x / 2.0 * (1.0 - x / 3.0 * (1.0 - x / 4.0 * low)));
    let bias = select(1.0 - exp(-x), series, x < 0.5);
    // </bias>
    bias
}

/// `ln(beta)` as the device takes it: a number for a beta of 0, too, whose bias is 1.
pub fn log_beta(beta: f64) -> f32 {
    beta.ln().max(-1e3) as f32
}
