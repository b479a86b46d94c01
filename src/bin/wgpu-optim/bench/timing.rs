//! Samples taken in turn, and what they come to.

use std::time::{Duration, Instant};

use anyhow::Result;

/// A sample is as many runs as take about this long: well above what a clock and a submit cost.
const SAMPLE: f64 = 0.02;
/// Runs of a sample, at most.
const MOST_RUNS: u32 = 256;
/// Samples, at least: fewer have no median to speak of.
pub const FEWEST: usize = 5;
/// What a device's clock may be ahead of the host's.
const SLACK: f64 = 1.02;

/// Something that is timed.
pub trait Subject {
    /// Runs it so many times, and waits until it is done.
    ///
    /// # Errors
    /// Where the device fails.
    fn run(&mut self, times: u32) -> Result<Sample>;
}

/// Seconds of one or more runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// On the host, from before the work was submitted until it was done.
    pub wall: f64,
    /// By the device's own clock.
    pub device: Option<f64>,
}

impl Sample {
    /// Times work that is done when it returns.
    pub fn of(work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let start = Instant::now();
        work()?;
        Ok(Self { wall: start.elapsed().as_secs_f64(), device: None })
    }
}

/// A subject, and the samples taken of it: seconds for each run.
pub struct Series<'a> {
    subject: Box<dyn Subject + 'a>,
    runs: u32,
    pub wall: Vec<f64>,
    device: Vec<f64>,
}

impl<'a> Series<'a> {
    pub fn new(subject: impl Subject + 'a) -> Self {
        Self { subject: Box::new(subject), runs: 1, wall: Vec::new(), device: Vec::new() }
    }

    /// Runs it until it is warm, and finds how many runs make a sample.
    pub fn warm_up(&mut self) -> Result<()> {
        self.subject.run(1)?;
        let one = self.subject.run(1)?.wall.max(1e-9);
        self.runs = ((SAMPLE / one).ceil() as u32).clamp(1, MOST_RUNS);
        // A run as long as a sample has been timed by now.
        if self.runs == 1 {
            return Ok(());
        }
        let each = self.subject.run(self.runs)?.wall / f64::from(self.runs);
        self.runs = ((SAMPLE / each).ceil() as u32).clamp(1, MOST_RUNS);
        Ok(())
    }

    fn take(&mut self) -> Result<()> {
        let sample = self.subject.run(self.runs)?;
        self.wall.push(sample.wall / f64::from(self.runs));
        // Some drivers write zeros, or times that no clock on the wall agrees with.
        let plausible = |seconds: &f64| *seconds > 0.0 && *seconds <= sample.wall * SLACK;
        self.device.extend(sample.device.filter(plausible).map(|seconds| seconds / f64::from(self.runs)));
        Ok(())
    }

    /// The device's times, where every sample has a plausible one.
    pub fn device(&self) -> Option<&[f64]> {
        (self.device.len() == self.wall.len()).then_some(&self.device)
    }
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Samples of each subject.
    pub samples: usize,
    /// After this much time for each subject, fewer samples do.
    pub seconds: f64,
}

/// Takes samples of all of them in turn: the bandwidth of a machine drifts, and only neighbours can be compared.
pub fn take_turns(series: &mut [Series<'_>], effort: &Effort, mut tick: impl FnMut()) -> Result<()> {
    series.iter_mut().try_for_each(Series::warm_up)?;
    let enough = Duration::from_secs_f64(effort.seconds * series.len() as f64);
    let start = Instant::now();
    for turn in 0..effort.samples.max(FEWEST) {
        if turn >= FEWEST && start.elapsed() > enough {
            break;
        }
        // Each has every other before it once, so that none always finds the same in the caches.
        let count = series.len();
        for place in 0..count {
            series[(place + turn) % count].take()?;
            tick();
        }
    }
    Ok(())
}

/// The middle of some values, or between the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The median distance from the median.
pub fn deviation(values: &[f64]) -> f64 {
    let middle = median(values);
    median(&values.iter().map(|value| (value - middle).abs()).collect::<Vec<_>>())
}

/// How many times faster `a` is than `b`: the median of the ratios of samples taken in one turn.
pub fn speedup(a: &[f64], b: &[f64]) -> f64 {
    median(&a.iter().zip(b).map(|(a, b)| b / a).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_and_one_bad_sample_does_not_move_it() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(deviation(&[1.0, 2.0, 900.0]), 1.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_drift_that_both_share_does_not_change_their_ratio() {
        assert_eq!(speedup(&[1.0, 2.0, 4.0], &[2.0, 4.0, 8.0]), 2.0);
    }

    /// Counts its runs; its device's clock is `ahead` of the wall.
    struct Fake {
        ahead: f64,
    }

    impl Subject for Fake {
        fn run(&mut self, times: u32) -> Result<Sample> {
            let wall = 0.01 * f64::from(times);
            Ok(Sample { wall, device: Some(wall * self.ahead) })
        }
    }

    #[test]
    fn samples_are_seconds_of_one_run_and_a_device_that_runs_ahead_of_the_wall_is_not_believed() {
        let mut series =
            [Series::new(Fake { ahead: 0.5 }), Series::new(Fake { ahead: 2.0 }), Series::new(Fake { ahead: 0.0 })];
        take_turns(&mut series, &Effort { samples: 7, seconds: 10.0 }, || {}).unwrap();
        assert_eq!(series[0].wall.len(), 7);
        assert!((median(&series[0].wall) - 0.01).abs() < 1e-9);
        assert!((median(series[0].device().unwrap()) - 0.005).abs() < 1e-9);
        assert!(series[1].device().is_none() && series[2].device().is_none());
    }

    /// Takes so many seconds, and counts its runs.
    struct Slow<'a>(f64, &'a std::cell::Cell<u32>);

    impl Subject for Slow<'_> {
        fn run(&mut self, times: u32) -> Result<Sample> {
            self.1.set(self.1.get() + times);
            Ok(Sample { wall: self.0 * f64::from(times), device: None })
        }
    }

    #[test]
    fn what_takes_as_long_as_a_sample_is_run_twice_to_be_warm() {
        for (seconds, expected) in [(1.0, 2), (SAMPLE, 2), (SAMPLE / 4.0, 2 + 4)] {
            let runs = std::cell::Cell::new(0);
            Series::new(Slow(seconds, &runs)).warm_up().unwrap();
            assert_eq!(runs.get(), expected, "{seconds}");
        }
    }

    #[test]
    fn when_the_time_is_up_the_fewest_samples_are_taken() {
        let mut series = [Series::new(Fake { ahead: 1.0 })];
        take_turns(&mut series, &Effort { samples: 100, seconds: 0.0 }, || {}).unwrap();
        assert_eq!(series[0].wall.len(), FEWEST);
    }
}
