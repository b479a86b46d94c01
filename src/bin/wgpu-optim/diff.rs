//! `diff`: what got faster or slower between two runs, beyond what the runs' own spread explains.

mod tell;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::bench::read::read;
use crate::bench::record::{Key, Row};
use crate::report::{print, print_json};

/// The least change that is told: a machine drifts by as much between two runs, which no spread within one run shows.
const LEAST: f64 = 0.03;
/// Standard errors that a change must exceed.
const SIGMAS: f64 = 3.0;
/// The standard deviation over the median distance from the median, of a normal distribution.
const SPREAD: f64 = 1.4826;
/// The standard error of a median over that of a mean: the root of half pi.
const MEDIAN: f64 = 1.2533;
/// Fewer samples tell nothing of their spread.
const FEWEST: u64 = 3;

/// Tell what got faster or slower between two files of `bench --csv`
///
/// Rows are matched by what, path, device, rule, workload and clock, and compared by their median times. A change
/// counts where it is more than 3 %, and more than 3 standard errors: of a median of n samples, with a median
/// distance MAD from it, that is 1.2533 * 1.4826 * MAD / sqrt(n) (as of normal samples), taken relative to the
/// median; those of the two files are added as squares, and |ln(B / A)| is held against the sum. The 3 % are there
/// because a machine drifts between runs, which the spread within a run does not show. A row with fewer than 3
/// samples is not judged.
#[derive(clap::Args)]
pub struct Args {
    /// The run before
    #[arg(value_name = "A.csv")]
    a: PathBuf,
    /// The run after
    #[arg(value_name = "B.csv")]
    b: PathBuf,
    /// Exit with 1 where anything is slower, or nothing could be compared
    #[arg(long)]
    fail_on_slower: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let (a, b) = (read(&args.a)?, read(&args.b)?);
    let diff = Diff::of(&a, &b);
    if args.json {
        print_json(&tell::json(&diff))?;
    } else {
        print(&tell::text(&diff, [&args.a, &args.b]))?;
    }
    tell::notes(&diff, [&args.a, &args.b], [&a, &b]);
    if args.fail_on_slower && !diff.pairs.iter().any(|pair| pair.verdict != Verdict::NotJudged) {
        bail!("nothing could be compared, so that nothing says that nothing is slower");
    }
    let slower = diff.pairs.iter().any(|pair| pair.verdict == Verdict::Slower);
    Ok(if slower && args.fail_on_slower { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Two files, row by row.
struct Diff<'a> {
    pairs: Vec<Pair<'a>>,
    /// Rows of the first file that the second has not, and the other way round.
    only: [Vec<&'a Row>; 2],
}

/// A row that both files have.
struct Pair<'a> {
    a: &'a Row,
    b: &'a Row,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Faster,
    Slower,
    Unchanged,
    /// Too few samples.
    NotJudged,
}

impl<'a> Diff<'a> {
    fn of(a: &'a [Row], b: &'a [Row]) -> Self {
        let keyed = |rows: &'a [Row]| rows.iter().map(|row| (row.key(), row)).collect::<HashMap<Key<'a>, &'a Row>>();
        let (in_a, in_b) = (keyed(a), keyed(b));
        let pairs = a.iter().filter_map(|row| in_b.get(&row.key()).map(|other| Pair::of(row, other))).collect();
        let without = |rows: &'a [Row], other: &HashMap<Key<'_>, &Row>| {
            rows.iter().filter(|row| !other.contains_key(&row.key())).collect()
        };
        Self { pairs, only: [without(a, &in_b), without(b, &in_a)] }
    }

    fn count(&self, verdict: Verdict) -> u64 {
        self.pairs.iter().filter(|pair| pair.verdict == verdict).count() as u64
    }
}

impl<'a> Pair<'a> {
    fn of(a: &'a Row, b: &'a Row) -> Self {
        let mut pair = Self { a, b, verdict: Verdict::NotJudged };
        if a.samples.min(b.samples) >= FEWEST {
            let change = pair.ratio().ln();
            pair.verdict = match change.abs() > pair.noise() {
                true if change < 0.0 => Verdict::Faster,
                true => Verdict::Slower,
                false => Verdict::Unchanged,
            };
        }
        pair
    }

    /// The time after over the time before.
    fn ratio(&self) -> f64 {
        self.b.median_s / self.a.median_s
    }

    /// The logarithm of the ratio that noise may make.
    fn noise(&self) -> f64 {
        let error = |row: &Row| MEDIAN * SPREAD * row.mad_s / (row.median_s * (row.samples as f64).sqrt());
        (SIGMAS * error(self.a).hypot(error(self.b))).max(LEAST.ln_1p())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::{Clock, What};

    fn row(median_s: f64, mad_s: f64, samples: u64) -> Row {
        let (path, device, rule, workload) = ("cpu".into(), "CPU".into(), "adam".into(), "gpt2".into());
        let (what, clock, share, note) = (What::Step, Clock::Wall, None, String::new());
        let (tensors, elements, bytes) = (1, 1, 28);
        Row {
            what,
            path,
            device,
            rule,
            workload,
            tensors,
            elements,
            bytes,
            clock,
            samples,
            median_s,
            mad_s,
            share,
            of_f32: None,
            note,
        }
    }

    fn verdict(a: (f64, f64, u64), b: (f64, f64, u64)) -> Verdict {
        Pair::of(&row(a.0, a.1, a.2), &row(b.0, b.1, b.2)).verdict
    }

    #[test]
    fn without_spread_three_percent_is_the_limit() {
        assert_eq!(verdict((1.0, 0.0, 15), (1.029, 0.0, 15)), Verdict::Unchanged);
        assert_eq!(verdict((1.0, 0.0, 15), (1.031, 0.0, 15)), Verdict::Slower);
        assert_eq!(verdict((1.031, 0.0, 15), (1.0, 0.0, 15)), Verdict::Faster);
    }

    #[test]
    fn spread_widens_the_limit_and_samples_narrow_it() {
        // 3 * 1.2533 * 1.4826 * 0.1 / sqrt(16) = 0.139 for one file, and nothing for the other.
        assert_eq!(verdict((1.0, 0.1, 16), (1.14, 0.0, 16)), Verdict::Unchanged);
        assert_eq!(verdict((1.0, 0.1, 16), (1.16, 0.0, 16)), Verdict::Slower);
        assert_eq!(verdict((1.0, 0.1, 64), (1.14, 0.0, 16)), Verdict::Slower);
    }

    #[test]
    fn too_few_samples_are_not_judged() {
        assert_eq!(verdict((1.0, 0.0, 2), (9.0, 0.0, 15)), Verdict::NotJudged);
    }
}
