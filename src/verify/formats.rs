//! Does this device read and write numbers of fewer bits? Every rule in every format, against the CPU's step.
//!
//! Both start each step from the same codes. Where both round the same number, they seldom write different codes, and
//! then neighbours: a device's division may be some units off, and a rounding may lie between. More than that is wrong.

use std::collections::BTreeMap;

use super::compensation::compensation;
use super::stand::Stand;
use crate::Error;
use crate::format::{Format, Formats, Q8Zero, Rounding, StateFormat};
use crate::rule::{Rule, Visitor, visit};

pub use super::numbers::{Numbers, Off, SHARE};

/// Steps of each tensor.
pub(super) const STEPS: usize = 4;

/// What came of a rule in some formats.
#[derive(Clone, Debug)]
pub struct Row {
    /// The rule.
    pub rule: &'static str,
    /// The formats, in short.
    pub formats: &'static str,
    /// The case whose settings it had: each format has another one.
    pub case: &'static str,
    /// Elements compared, over all tensors and steps.
    pub elements: u64,
    /// How far the device is from the CPU's twin; what is kept in `f32`, from the `f64` oracle, too.
    pub off: Off,
    /// What else is wrong: a neighbour's bytes that changed, a gradient that was written, a compensation taken out.
    pub damage: Option<String>,
}

impl Row {
    /// Whether every number is where it may be, and nothing was damaged.
    pub fn passed(&self) -> bool {
        self.off.holds() && self.damage.is_none()
    }
}

/// Runs every rule in every format; `each` sees a row as soon as it is there.
///
/// # Errors
/// As [`verify::run`](super::run).
pub fn run(device: &wgpu::Device, queue: &wgpu::Queue, each: impl FnMut(&Row)) -> Result<Vec<Row>, Error> {
    struct All<'a, F> {
        device: &'a wgpu::Device,
        queue: &'a wgpu::Queue,
        each: F,
        rows: Result<Vec<Row>, Error>,
    }
    impl<F: FnMut(&Row)> Visitor for All<'_, F> {
        fn rule<R: Rule>(&mut self) {
            let cases = R::cases();
            let mut next = cases.iter().cycle();
            for (name, formats) in all::<R>() {
                let Ok(rows) = &mut self.rows else { return };
                // Some cases cannot have their state rounded.
                let mut some = next.by_ref().take(cases.len());
                let Some((case, settings)) = some.find(|(_, settings)| formats.check_with(settings).is_ok()) else {
                    continue;
                };
                match run_case(self.device, self.queue, (name, &formats), (case, settings)) {
                    Ok(row) => {
                        (self.each)(&row);
                        rows.push(row);
                    }
                    Err(error) => self.rows = Err(error),
                }
            }
        }
    }
    let mut every = All { device, queue, each, rows: Ok(Vec::new()) };
    visit(&mut every);
    every.rows
}

/// How many rows [`run`] returns.
pub fn cases() -> usize {
    struct Count(usize);
    impl Visitor for Count {
        fn rule<R: Rule>(&mut self) {
            self.0 += all::<R>().len();
        }
    }
    let mut count = Count(0);
    visit(&mut count);
    count.0
}

/// Runs one rule in some formats, cold and warm. Rounding with Kahan's compensation is held to
/// [`compensation`], too.
///
/// # Errors
/// As [`run`].
pub fn run_case<R: Rule>(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    (name, formats): (&'static str, &Formats),
    (case, settings): (&'static str, &R),
) -> Result<Row, Error> {
    let (elements, off) = (0, Off::default());
    let mut row = Row { rule: R::NAME, formats: name, case, elements, off, damage: None };
    for warm in [false, true] {
        let mut stand = Stand::new((device, queue), settings, formats, warm)?;
        for step in 0..STEPS {
            stand.step(step, &mut row)?;
        }
    }
    if formats.rounding == Rounding::Kahan {
        match compensation(device, queue) {
            Err(error @ Error::Compensation { .. }) => row.damage = Some(error.to_string()),
            other => other?,
        }
    }
    Ok(row)
}

/// Formats that together hold everything there is, each with its name.
pub fn all<R: Rule>() -> Vec<(&'static str, Formats)> {
    let of = |params, grads| Formats { params, grads, q8_min: 256, seed: 1 << 40 | 5, ..Formats::default() };
    let (f32, f16, bf16) = (Format::F32, Format::F16, Format::Bf16);
    let state = |state, formats: Formats| Formats { state, ..formats };
    let rounding = |rounding, formats: Formats| Formats { rounding, ..formats };
    let master = |formats: Formats| Formats { master: true, ..formats };
    let (chance, kahan) = (Rounding::Stochastic, Rounding::Kahan);
    let (half, q8) = (StateFormat::Bf16, StateFormat::Q8);
    vec![
        ("bf16", of(bf16, bf16)),
        ("bf16, grads f32", of(bf16, f32)),
        ("bf16, grads f16", of(bf16, f16)),
        ("f16", of(f16, f16)),
        ("grads bf16", of(f32, bf16)),
        ("grads f16", of(f32, f16)),
        ("state bf16", state(half, of(f32, f32))),
        ("bf16, state bf16", state(half, of(bf16, bf16))),
        ("bf16, stochastic", rounding(chance, of(bf16, bf16))),
        ("f16, stochastic", rounding(chance, of(f16, f16))),
        ("state bf16, stochastic", rounding(chance, state(half, of(f32, f32)))),
        ("bf16, state bf16, stochastic", rounding(chance, state(half, of(bf16, bf16)))),
        ("bf16, kahan", rounding(kahan, of(bf16, bf16))),
        ("f16, state bf16, kahan", rounding(kahan, state(half, of(f16, f16)))),
        ("state q8", state(q8, of(f32, f32))),
        ("state q8, reference zero", Formats { q8_min: 0, q8_zero: Q8Zero::Reference, ..state(q8, of(f32, f32)) }),
        ("bf16, master", master(of(bf16, bf16))),
        ("f16, master, stochastic", rounding(chance, master(of(f16, f16)))),
        ("bf16, state q8", state(q8, of(bf16, bf16))),
        ("bf16, state q8, kahan", rounding(kahan, state(q8, of(bf16, bf16)))),
        ("bf16, state of each", Formats { slots: one_of_each::<R>(), ..of(bf16, bf16) }),
    ]
}

/// A rule's first slot in 8 bits and its second in 16; another is `f32`.
fn one_of_each<R: Rule>() -> BTreeMap<String, StateFormat> {
    let formats = [StateFormat::Q8, StateFormat::Bf16];
    R::SLOTS.iter().map(|slot| slot.to_string()).zip(formats).collect()
}
