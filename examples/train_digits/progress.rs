//! How far a run is, on the terminal.

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use super::telemetry::Sample;

/// A bar that is at `taken` of `steps`.
pub fn bar(steps: u64, taken: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("step {pos} of {len}  {msg} {wide_bar}");
    let bar = ProgressBar::new(steps).with_position(taken);
    // An error on the way takes the bar from the screen before it is told.
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_finish(ProgressFinish::AndClear)
}

/// Moves the bar to the newest of what has arrived.
pub fn show(bar: &ProgressBar, arrived: &[Sample]) {
    if let Some(sample) = arrived.last() {
        bar.set_position(sample.step + 1);
        bar.set_message(format!("loss {:.4}", sample.loss));
    }
}
