//! What is told of the gradients that a run was given.

use crate::numbers::{Loss, Numbers};
use crate::report::Report;

/// Gradients that are no numbers, and those that were cast. They are stepped with as the framework would, so somebody
/// should know.
#[derive(Default)]
pub struct Gradients {
    nan: u64,
    infinite: u64,
    /// The first tensor that holds any.
    first: Option<String>,
    loss: Loss,
    /// The first tensor that lost any.
    lost: Option<String>,
}

impl Gradients {
    /// Looks at a gradient as it is stepped with, and at what the cast to it has lost.
    pub fn count(&mut self, values: &Numbers, loss: Loss, named: impl Fn() -> String) {
        let (mut nan, mut infinite) = (0, 0);
        for x in values.widened() {
            nan += u64::from(x.is_nan());
            infinite += u64::from(x.is_infinite());
        }
        if nan + infinite > 0 {
            self.first.get_or_insert_with(&named);
        }
        if loss.changed > 0 {
            self.lost.get_or_insert_with(&named);
        }
        self.nan += nan;
        self.infinite += infinite;
        self.loss = self.loss.and(loss);
    }

    /// Tells of both. With a scaler, what is not finite was not stepped with, and has been told of.
    pub fn tell(&self, scaled: bool, report: &mut Report) {
        if let Some(first) = self.first.as_ref().filter(|_| !scaled) {
            let (nan, infinite) = (self.nan, self.infinite);
            report.warn(format!("the gradients hold {nan} NaN and {infinite} infinite values, first in {first}"));
        }
        let Some(lost) = &self.lost else { return };
        let Loss { values, changed, infinite } = self.loss;
        let text = format!(
            "{changed} of {values} gradients that were cast, as [format] says, are other numbers now, first in {lost}"
        );
        match infinite {
            0 => report.note(text),
            _ => report.warn(format!("{text}; {infinite} of them are infinite")),
        }
    }
}
