//! A run that is killed, again and again, ends where it would have.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use safetensors::SafeTensors;

use crate::gpu;
use crate::program::program;

/// More than any device does before it is killed.
const ENDLESS: u64 = 10_000_000;
/// Kills, each so much later than the checkpoint has taken so many steps more. The first comes before there is one.
const KILLS: [(u64, Duration); 4] = [
    (0, Duration::ZERO),
    (3, Duration::from_millis(40)),
    (6, Duration::from_millis(5)),
    (9, Duration::from_millis(90)),
];
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_killed_run_ends_with_the_bits_of_one_that_was_not() {
    if gpu().is_none() {
        return;
    }
    let [killed, whole] = [(), ()].map(|()| tempfile::tempdir().unwrap());
    for (more, later) in KILLS {
        kill(killed.path(), more, later);
    }
    let reached = step(killed.path());
    assert!(reached >= 18, "{reached} steps were taken before the last kill");
    for folder in [&killed, &whole] {
        assert!(training(folder.path(), reached + 4).status().unwrap().success());
    }
    for file in ["checkpoint.safetensors", "loss.csv"] {
        let [a, b] = [&killed, &whole].map(|folder| fs::read(folder.path().join(file)).unwrap());
        assert!(a == b, "{file} differs");
    }
}

/// A run that goes on from what lies in the folder. It saves often, so that kills fall into savings, too.
fn training(folder: &Path, steps: u64) -> Command {
    let mut command = program(&["--steps", &steps.to_string(), "--every", "3", "--resume", "--out", "."]);
    command.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Starts a run, and kills it once the checkpoint has taken `more` steps, and `later`.
fn kill(folder: &Path, more: u64, later: Duration) {
    let (until, began) = (step(folder) + more, Instant::now());
    let mut child = training(folder, ENDLESS).spawn().unwrap();
    while step(folder) < until {
        assert_eq!(child.try_wait().unwrap(), None, "the run has ended before it was killed");
        assert!(began.elapsed() < PATIENCE, "no checkpoint has taken {until} steps");
        sleep(Duration::from_millis(1));
    }
    sleep(later);
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
}

/// The steps that the checkpoint has taken. Whenever it is read, it is whole.
fn step(folder: &Path) -> u64 {
    let Ok(bytes) = fs::read(folder.join("checkpoint.safetensors")) else { return 0 };
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a checkpoint that is not whole");
    let steps = &header.metadata().as_ref().unwrap()["steps"];
    serde_json::from_str::<BTreeMap<String, u64>>(steps).unwrap()["fc1.weight"]
}
