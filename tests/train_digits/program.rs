//! The example as a process: what it leaves, what it says, its exit codes.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Output};

use crate::example;
use crate::gpu;

/// Carries the arguments to the process that is this test program once more.
const ARGS: &str = "WGPU_OPTIM_TEST_TRAIN_DIGITS";

/// The example with these arguments. It is compiled into this program, so that it is never an old one.
pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "program::the_example_itself", "--nocapture"]);
    command.env(ARGS, args.join("\n"));
    command
}

#[test]
fn the_example_itself() {
    let Ok(args) = std::env::var(ARGS) else { return };
    let args = ["train_digits"].into_iter().chain(args.lines());
    let code = example::start(args.map(Into::into).collect::<Vec<_>>());
    std::process::exit(if code == ExitCode::SUCCESS { 0 } else { 1 });
}

/// Runs it in a folder of its own, and returns what it wrote to stdout and stderr.
fn run(folder: &Path, args: &[&str], code: i32) -> (String, String) {
    told(program(args).current_dir(folder).output().unwrap(), code)
}

fn told(output: Output, code: i32) -> (String, String) {
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
    (stdout, stderr)
}

#[test]
fn a_run_leaves_its_curve_and_tells_how_it_went() {
    if gpu().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (stdout, _) = run(folder.path(), &["--rule", "rmsprop_article", "--steps", "12", "--every", "5"], 0);
    let out = folder.path().join("target/train_digits");
    assert!(stdout.contains("rmsprop_article, 12 steps on ") && stdout.contains("steps a second"), "{stdout}");
    assert!(stdout.contains("the curve lies in target/train_digits/loss.svg"), "{stdout}");
    let csv = fs::read_to_string(out.join("loss.csv")).unwrap();
    let steps: Vec<&str> = csv.lines().filter_map(|line| line.split(',').next()).collect();
    assert_eq!(steps, ["step", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"]);
    let last: f32 = csv.lines().next_back().unwrap().split(',').nth(1).unwrap().parse().unwrap();
    assert!(stdout.contains(&format!("loss {last:.6}, accuracy ")), "{stdout}");
    assert!(fs::read_to_string(out.join("loss.svg")).unwrap().contains("<polyline"));

    // Fewer steps than it has taken are wrong usage; as many are nothing to do.
    let (_, stderr) = run(folder.path(), &["--rule", "rmsprop_article", "--resume", "--steps", "11"], 2);
    assert!(stderr.contains("the checkpoint has taken 12 already; ask for 12 or more"), "{stderr}");
    let (stdout, _) = run(folder.path(), &["--rule", "rmsprop_article", "--resume", "--steps", "12"], 0);
    assert!(stdout.contains("which was there already") && !stdout.contains("steps a second"), "{stdout}");
    assert_eq!(fs::read_to_string(out.join("loss.csv")).unwrap(), csv);

    let (_, stderr) = run(folder.path(), &["--rule", "adam", "--resume"], 1);
    assert!(stderr.contains("error: cannot go on: target/train_digits/checkpoint.safetensors: "), "{stderr}");
    assert!(stderr.contains("it was saved with --rule rmsprop_article, this run has --rule adam"), "{stderr}");
}

#[test]
fn several_formats_are_trained_one_by_one_drawn_together_and_go_on() {
    if gpu().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let args = ["--format", "f32,bf16-kahan,q8", "--out", ".", "--every", "3"];
    let (stdout, _) = run(folder.path(), &[&args[..], &["--steps", "4"]].concat(), 0);
    assert!(stdout.contains("adam, by format, 4 steps on ") && stdout.contains("\nbf16-kahan: loss "), "{stdout}");
    let (stdout, stderr) = run(folder.path(), &[&args[..], &["--steps", "6", "--resume"]].concat(), 0);
    assert!(stdout.contains("the curves lie in ./loss.svg") && stderr.is_empty(), "{stdout}{stderr}");
    let csv = fs::read_to_string(folder.path().join("loss.csv")).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((rows.len(), &rows[0][..]), (8, &["step", "f32", "bf16-kahan", "q8"][..]));
    // They start alike, but for how bf16 rounds the weights, and part ways.
    assert_eq!(rows[1][1], rows[1][3]);
    assert!((1..3).all(|column| rows[7][column] != rows[7][column + 1]), "{csv}");
    for format in ["f32", "bf16-kahan", "q8"] {
        assert!(folder.path().join(format!("checkpoint-{format}.safetensors")).exists(), "{format}");
    }

    // The library tells what does not fit, of a rate as of a format.
    let (_, stderr) = run(folder.path(), &[&args[..], &["--steps", "9", "--lr", "1e-3", "--resume"]].concat(), 1);
    assert!(stderr.contains("lr of group 0 is 0.01 in it and 0.001 in the optimizer"), "{stderr}");
    let (_, stderr) =
        run(folder.path(), &["--format", "q8", "--resume", "--checkpoint", "checkpoint-bf16-kahan.safetensors"], 1);
    assert!(stderr.contains("the format of group 0: params is bf16 in it and f32 in the optimizer"), "{stderr}");
}

#[test]
fn formats_that_would_share_a_file_are_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let (_, stderr) = run(folder.path(), &["--format", "f32,q8,f32"], 2);
    assert!(stderr.contains("--format names f32 twice"), "{stderr}");
    let (_, stderr) = run(folder.path(), &["--format", "f32,q8", "--checkpoint", "file"], 2);
    assert!(stderr.contains("--checkpoint is one file, but --format names 2 formats"), "{stderr}");
}

#[test]
fn resuming_before_there_is_a_checkpoint_starts_and_says_so() {
    if gpu().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (_, stderr) = run(folder.path(), &["--steps", "1", "--resume", "--checkpoint", "none.safetensors"], 0);
    assert!(stderr.contains("note: there is no none.safetensors yet, so this starts at step 0"), "{stderr}");
    assert!(folder.path().join("none.safetensors").exists());
}

/// A limit on the length of files is what a full disk is to the program.
#[cfg(unix)]
#[test]
fn a_save_that_fails_is_told_and_leaves_the_old_files() {
    if gpu().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &["--steps", "2", "--out", "."], 0);
    let before = contents(folder.path());
    let resumed = program(&["--steps", "4", "--every", "1", "--resume", "--out", "."]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$0\" \"$@\""]).arg(resumed.get_program());
    limited.args(resumed.get_args()).envs(resumed.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (_, stderr) = told(limited.current_dir(folder.path()).output().unwrap(), 1);
    assert!(stderr.contains("error: cannot write ./checkpoint.safetensors: "), "{stderr}");
    assert_eq!(contents(folder.path()), before);
}

/// Every file of a folder, with its bytes.
#[cfg(unix)]
fn contents(folder: &Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn what_is_typed_wrong_exits_with_2() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        ["--rule", "sgd"],
        ["--format", "f8"],
        ["--steps", "0"],
        ["--every", "0"],
        ["--steps", "many"],
        ["--rate", "1"],
    ] {
        let (_, stderr) = run(folder.path(), &args, 2);
        assert!(stderr.contains(args[0]), "{stderr}");
    }
}

#[test]
fn a_machine_without_an_adapter_is_told_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    let none = if cfg!(windows) { "metal" } else { "dx12" };
    let output = program(&[]).current_dir(folder.path()).env("WGPU_BACKEND", none).output().unwrap();
    let (_, stderr) = told(output, 1);
    assert!(stderr.contains("error: no adapter to train on; scripts/setup.sh installs a software one"), "{stderr}");
}

/// With so many steps, a test that waited for them would not end.
#[test]
fn a_file_that_cannot_be_written_is_told_before_the_training() {
    if gpu().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("loss.svg")).unwrap();
    let endless = ["--steps", "1000000000", "--every", "1000000000"];
    let (_, stderr) = run(folder.path(), &[&endless[..], &["--checkpoint", "none/file"]].concat(), 1);
    assert!(stderr.contains("error: cannot write none/file: "), "{stderr}");
    let (_, stderr) = run(folder.path(), &[&endless[..], &["--out", "."]].concat(), 1);
    assert!(stderr.contains("error: ./loss.svg is there and is not a regular file"), "{stderr}");
}

#[test]
fn a_checkpoint_that_will_be_replaced_is_told() {
    if gpu().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let args = ["--steps", "2", "--checkpoint", "run.safetensors"];
    let [first, second] = [(), ()].map(|()| run(folder.path(), &args, 0).1);
    assert!(!first.contains("note: "), "{first}");
    assert!(second.contains("note: this starts at step 0 and replaces run.safetensors; --resume goes on"), "{second}");
}

#[test]
fn a_folder_that_cannot_be_made_is_told() {
    if gpu().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let (_, stderr) = run(folder.path(), &["--out", "file/out"], 1);
    assert!(stderr.contains("error: cannot make file/out: "), "{stderr}");
}
