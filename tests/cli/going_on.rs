//! Runs with everything around the update, stopped and gone on with; what a state file keeps for that, and what it cannot.

use safetensors::{SafeTensors, serialize};

use crate::desk::{Desk, STEP, devices};

/// Everything at once.
pub const ALL: &str = "rule = \"adamw\"\nlr = 0.05\n\
    [clip]\nglobal_norm = 0.75\n\
    [scaler]\ninit_scale = 8\ngrowth_interval = 2\n\
    [ema]\ndecay = 0.75\noverwrite_every = 3\n\
    [clamp]\nmin = -1.9\nmax = 2.9\n\
    [schedule]\nkind = \"one_cycle\"\nmax_lr = 0.1\ntotal_steps = 7\n\
    [[group]]\nmatch = \"b\"\nweight_decay = 0\n\
    schedule = { kind = \"linear\", total_iters = 3, then = [{ at = 4, kind = \"exponential\", gamma = 0.5 }] }\n";

/// A desk with seven files of gradients: one that overflows, one of `w` alone, one of nothing, one without `v`, one that is
/// NaN.
fn laid_out() -> (Desk, Vec<String>) {
    let desk = Desk::new();
    desk.text("optim.toml", ALL);
    let v: Vec<f32> = (0..3001).map(|i| (i % 89) as f32 / 89.0).collect();
    let (w, b) = (desk.values("p.safetensors", "w"), desk.values("p.safetensors", "b"));
    desk.tensors("p.safetensors", &[("w", &[5], &w), ("b", &[2], &b), ("v", &[3001], &v)]);
    for t in 0..7 {
        let w: Vec<f32> = (0..5).map(|i| ((t * 5 + i) % 7) as f32 - 2.5).collect();
        let b = [0.5 * t as f32 - 1.0, [1.0, f32::INFINITY, 2.0, 0.0, 0.25, f32::NAN, 1.0][t]];
        let v: Vec<f32> = (0..3001).map(|i| ((t * 31 + i * 7) % 97) as f32 / 97.0 - 0.5).collect();
        let all: [(&str, &[usize], &[f32]); 3] = [("w", &[5], &w), ("b", &[2], &b), ("v", &[3001], &v)];
        let given = match t {
            2 => &all[..1],
            3 => &all[..0],
            4 => &all[..2],
            _ => &all[..],
        };
        desk.tensors(&format!("g{t}"), given);
    }
    (desk, (0..7).map(|t| format!("g{t}")).collect())
}

#[test]
fn going_on_is_never_having_stopped_with_everything_around_the_update() {
    let (desk, grads) = laid_out();
    for device in devices() {
        let apply = format!("apply --device {device} --config optim.toml");
        let outputs = |to: &str| format!("--out-params {to} --out-state {to}-state --out-ema {to}-ema");
        let whole = format!("{apply} --params p.safetensors --grads {} {}", grads.join(" "), outputs("a"));
        let told = desk.succeeds(&whole);
        assert!(told.stdout.contains("2 of 7 steps skipped; the scale is now"), "{}", told.stdout);
        for stop in 1..7 {
            let (first, then) = grads.split_at(stop);
            let (first, then) = (first.join(" "), then.join(" "));
            desk.succeeds(&format!("{apply} --params p.safetensors --grads {first} {}", outputs("b1")));
            let resume = format!("{apply} --params b1 --state b1-state --grads {then} {}", outputs("b2"));
            let told = desk.succeeds(&resume).stderr;
            assert!(!told.contains(" was ") || !told.contains("is now in"), "{told}");
            for file in ["", "-state", "-ema"] {
                let same = desk.read(&format!("a{file}")) == desk.read(&format!("b2{file}"));
                assert!(same, "{device}, stopped after {stop}: \"{file}\"");
            }
        }
    }
}

#[test]
fn a_run_goes_on_on_another_device() {
    let (desk, grads) = laid_out();
    let (first, then) = (grads[..3].join(" "), grads[3..].join(" "));
    for device in devices() {
        let apply = format!("apply --device {device} --config optim.toml");
        desk.succeeds(&format!(
            "{apply} --params p.safetensors --grads {first} --out-params {device}1 --out-state s-{device}"
        ));
    }
    for (begun, device) in devices().iter().zip(devices().iter().rev()) {
        desk.succeeds(&format!(
            "apply --device {device} --config optim.toml --params {begun}1 --state s-{begun} --grads {then} \
             --out-params {begun}2 --out-state {begun}2-state"
        ));
        desk.succeeds(&format!("compare cpu2 {begun}2 --before p.safetensors"));
        assert_eq!(metadata(&desk, "cpu2-state", "progress"), metadata(&desk, &format!("{begun}2-state"), "progress"));
    }
}

#[test]
fn a_run_without_any_gradient_moves_nothing_but_the_schedule() {
    let (desk, _) = laid_out();
    for device in devices() {
        let apply = format!("apply --device {device} --config optim.toml --params p.safetensors --out-params out");
        desk.succeeds(&format!("{apply} --grads g3 --out-state s0 --out-ema ema"));
        assert!(desk.read("out") == desk.read("p.safetensors") && desk.read("ema") == desk.read("out"), "{device}");
        let untouched = "\"scale\":8.0,\"growth_tracker\":0,\"skipped\":0";
        assert_eq!(metadata(&desk, "s0", "progress"), format!("{{\"recorded\":1,\"scaler\":{{{untouched}}}}}"));
        desk.succeeds(&format!("{apply} --grads g3 g0 g3 --out-state s1"));
        let clean = "\"scale\":8.0,\"growth_tracker\":1,\"skipped\":0";
        assert_eq!(metadata(&desk, "s1", "progress"), format!("{{\"recorded\":3,\"scaler\":{{{clean}}}}}"), "{device}");
    }
}

#[test]
fn what_changed_around_the_update_is_told_when_going_on() {
    let desk = Desk::new();
    desk.text("optim.toml", "rule = \"adam\"\n[clip]\nvalue = 1\n[scaler]\n[schedule]\nkind = \"linear\"\n");
    desk.succeeds(&format!("{STEP} --out-state s.safetensors"));
    desk.text("optim.toml", "rule = \"adam\"\n[clip]\nvalue = 2\n");
    let told = desk.succeeds(&format!("{STEP} --state s.safetensors")).stderr;
    for part in [
        "note: [clip] was {\"value\":1.0} in s.safetensors and is {\"value\":2.0} in optim.toml",
        "note: [scaler] was {\"init_scale\":65536.0",
        "and is not there in optim.toml",
        "note: the schedule was {\"kind\":\"linear\"",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("[ema]") && !told.contains("[clamp]"), "{told}");
}

#[test]
fn a_schedule_goes_on_where_the_steps_are_and_says_so_where_they_are_not_told() {
    let desk = Desk::new();
    desk.succeeds(&format!("{STEP} --grads g1.safetensors --out-state s.safetensors"));
    let bytes = desk.read("s.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("a sound file");
    desk.bytes("s.safetensors", &serialize(file.tensors(), None).expect("a file"));
    desk.text("optim.toml", "rule = \"adam\"\nlr = 0.5\n[schedule]\nkind = \"step\"\nstep_size = 2\ngamma = 0\n");
    let told = desk.succeeds(&format!("{STEP} --state s.safetensors")).stderr;
    assert!(told.contains("s.safetensors does not tell how many steps there were; the schedule goes on at step 2"));
    assert!(desk.read("out.safetensors") == desk.read("p.safetensors"), "the lr of step 2 is 0");
}

#[test]
fn state_with_averages_and_a_config_without_them_do_not_fit_and_neither_do_the_others() {
    let desk = Desk::new();
    desk.succeeds(&format!("{STEP} --out-state plain"));
    desk.text("optim.toml", "rule = \"adam\"\n[ema]\n");
    desk.succeeds(&format!("{STEP} --out-state averaged"));
    let begin = "\"state.b.ema\" is missing; to begin the average now, write the parameters there";
    desk.refuses(&format!("{STEP} --state plain"), 1, &[begin]);
    desk.text("optim.toml", "rule = \"adam\"\n");
    let parts = ["\"state.w.ema\" is not kept by the settings of all tensors, for which there is a table [ema]"];
    desk.refuses(&format!("{STEP} --state averaged"), 1, &parts);
    let parts = ["--out-ema: optim.toml has no table [ema], so no averages are kept"];
    desk.refuses(&format!("{STEP} --out-ema ema"), 2, &parts);
    desk.text("optim.toml", "rule = \"adam\"\n[ema]\n");
    desk.refuses(&format!("{STEP} --out-ema g0.safetensors"), 2, &["--out-ema: g0.safetensors is the input"]);
    desk.refuses(&format!("{STEP} --out-ema out.safetensors"), 2, &["--out-ema and --out-params are one file"]);
}

#[test]
fn progress_that_cannot_be_is_refused() {
    let desk = Desk::new();
    desk.text("optim.toml", "rule = \"adam\"\n[scaler]\n");
    desk.succeeds(&format!("{STEP} --out-state s"));
    let scaler = "{\"scale\":65536.0,\"growth_tracker\":1,\"skipped\":0}";
    assert_eq!(metadata(&desk, "s", "progress"), format!("{{\"recorded\":1,\"scaler\":{scaler}}}"));
    for (progress, why) in [
        (format!("{{\"recorded\":18446744073709551615,\"scaler\":{scaler}}}"), "recorded is 18446744073709551615"),
        (format!("{{\"recorded\":-1,\"scaler\":{scaler}}}"), "invalid value: integer `-1`"),
        (format!("{{\"scaler\":{scaler}}}"), "missing field `recorded`"),
        ("{\"recorded\":1,\"scale\":1}".into(), "unknown field `scale`"),
        ("{\"recorded\":1,\"recorded\":1}".into(), "duplicate field `recorded`"),
        ("[".into(), "progress: EOF"),
        (scaled("0.0", "0", "0"), "scale is 0, expected a finite scale > 0"),
        (scaled("-2.0", "0", "0"), "scale is -2, expected a finite scale > 0"),
        (scaled("1e39", "0", "0"), "number out of range"),
        (scaled("1.0", "4294967295", "0"), "growth_tracker is 4294967295, and there were only 1 steps"),
        (scaled("1.0", "0", "2"), "skipped is 2, and there were only 1 steps"),
    ] {
        with_metadata(&desk, "s", "broken", "progress", &progress);
        desk.refuses(&format!("{STEP} --state broken"), 1, &["broken: metadata: progress", why]);
    }
    with_metadata(&desk, "s", "broken", "chain", "{");
    desk.refuses(&format!("{STEP} --state broken"), 1, &["broken: metadata: chain"]);
}

fn scaled(scale: &str, growth_tracker: &str, skipped: &str) -> String {
    format!(
        "{{\"recorded\":1,\"scaler\":{{\"scale\":{scale},\"growth_tracker\":{growth_tracker},\"skipped\":{skipped}}}}}"
    )
}

fn metadata(desk: &Desk, file: &str, key: &str) -> String {
    let bytes = desk.read(file);
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
    header.metadata().as_ref().expect("metadata")[key].clone()
}

/// Writes a file again with one pair of its metadata changed.
fn with_metadata(desk: &Desk, from: &str, to: &str, key: &str, value: &str) {
    let bytes = desk.read(from);
    let file = SafeTensors::deserialize(&bytes).expect("a sound file");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
    let mut metadata = header.metadata().clone().expect("metadata");
    metadata.insert(key.into(), value.into());
    desk.bytes(to, &serialize(file.tensors(), Some(metadata)).expect("a file"));
}
