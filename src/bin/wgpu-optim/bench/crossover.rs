//! From which length on the device is faster than the CPU path.

use std::collections::BTreeMap;

use super::record::{Clock, Crossover, Row, What};

/// Seconds of one length.
#[derive(Default)]
struct Times {
    gpu: Option<f64>,
    cpu: Option<f64>,
    upload: Option<f64>,
    readback: Option<f64>,
}

impl Times {
    /// The device's time over the CPU's.
    fn ratio(&self, travelling: bool) -> Option<f64> {
        let travel = if travelling { self.upload? + self.readback? } else { 0.0 };
        Some((self.gpu? + travel) / self.cpu?)
    }
}

/// The crossovers of each rule, resident and travelling, over its single tensors, by the wall clock.
pub fn crossovers(rows: &[Row]) -> Vec<Crossover> {
    let mut rules: Vec<&str> = Vec::new();
    for row in rows {
        if !rules.contains(&row.rule.as_str()) {
            rules.push(&row.rule);
        }
    }
    let of = |rule: &&str| {
        let times = times(rows, rule);
        [false, true].map(|travelling| crossover(rule, travelling, &times)).into_iter().flatten().collect::<Vec<_>>()
    };
    rules.iter().flat_map(of).collect()
}

fn times(rows: &[Row], rule: &str) -> BTreeMap<u64, Times> {
    let mut times: BTreeMap<u64, Times> = BTreeMap::new();
    let single = |row: &&Row| row.rule == rule && row.workload.starts_with("single-") && row.clock == Clock::Wall;
    for row in rows.iter().filter(single) {
        let at = times.entry(row.elements).or_default();
        match (row.what, row.path.as_str()) {
            (What::Step, "gpu") => at.gpu = Some(row.median_s),
            (What::Step, "cpu") => at.cpu = Some(row.median_s),
            (What::Upload, _) => at.upload = Some(row.median_s),
            (What::Readback, _) => at.readback = Some(row.median_s),
            _ => {}
        }
    }
    times
}

/// The length from which on the ratio stays below 1.
fn crossover(rule: &str, travelling: bool, times: &BTreeMap<u64, Times>) -> Option<Crossover> {
    let ratios: Vec<(f64, f64)> =
        times.iter().filter_map(|(&len, times)| Some((len as f64, times.ratio(travelling)?))).collect();
    let last_slower = ratios.iter().rposition(|(_, ratio)| *ratio >= 1.0);
    let elements = match last_slower {
        None => ratios.first().map(|(len, _)| *len),
        Some(i) => ratios.get(i + 1).map(|&faster| between(ratios[i], faster)),
    };
    let (rule, at_once) = (rule.into(), last_slower.is_none());
    (!ratios.is_empty()).then_some(Crossover { rule, travelling, elements, at_once })
}

/// Where the line between two points on logarithmic axes crosses 1.
fn between((a, slower): (f64, f64), (b, faster): (f64, f64)) -> f64 {
    let share = slower.ln() / (slower.ln() - faster.ln());
    (a.ln() + share * (b.ln() - a.ln())).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(of: [(u64, f64); 3], travel: f64) -> BTreeMap<u64, Times> {
        let (cpu, upload, readback) = (Some(1.0), Some(travel), Some(travel));
        of.into_iter().map(|(len, gpu)| (len, Times { gpu: Some(gpu), cpu, upload, readback })).collect()
    }

    #[test]
    fn the_crossover_lies_between_the_last_slower_and_the_first_faster() {
        let found = |of, travelling| crossover("adam", travelling, &times(of, 0.5)).unwrap();
        let both = [(100, 4.0), (1000, 2.0), (100_000, 0.5)];
        assert!((found(both, false).elements.unwrap() - 10_000.0).abs() < 1e-6);
        assert_eq!(found(both, true).elements, None);
        let always = [(100, 0.9), (1000, 0.5), (100_000, 0.5)];
        assert_eq!((found(always, false).elements, found(always, false).at_once), (Some(100.0), true));
        // A length that is slower again beyond is not passed over.
        let twice = [(100, 0.5), (1000, 2.0), (100_000, 0.5)];
        assert!(found(twice, false).elements.unwrap() > 1000.0);
    }

    #[test]
    fn without_a_device_there_is_none() {
        let mut times = times([(1, 1.0), (2, 1.0), (3, 1.0)], 0.0);
        times.values_mut().for_each(|times| times.gpu = None);
        assert_eq!(crossover("adam", false, &times), None);
    }
}
