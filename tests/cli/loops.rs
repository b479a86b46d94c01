//! The tables around the update: what they do to files, how a run with them goes on, and what is wrong in them.

use safetensors::{SafeTensors, serialize};

use crate::desk::{Desk, STEP, devices};

/// Everything at once.
const ALL: &str = "rule = \"adamw\"\nlr = 0.05\n\
    [clip]\nglobal_norm = 0.75\n\
    [scaler]\ninit_scale = 8\ngrowth_interval = 2\n\
    [ema]\ndecay = 0.75\noverwrite_every = 3\n\
    [clamp]\nmin = -1.9\nmax = 2.9\n\
    [schedule]\nkind = \"one_cycle\"\nmax_lr = 0.1\ntotal_steps = 7\n\
    [[group]]\nmatch = \"b\"\nweight_decay = 0\n\
    schedule = { kind = \"linear\", total_iters = 3, then = [{ at = 4, kind = \"exponential\", gamma = 0.5 }] }\n";

/// A desk with seven files of gradients: one that overflows, one without `b`, one of nothing, one that is NaN.
fn laid_out() -> (Desk, Vec<String>) {
    let desk = Desk::new();
    desk.text("optim.toml", ALL);
    for t in 0..7 {
        let w: Vec<f32> = (0..5).map(|i| ((t * 5 + i) % 7) as f32 - 2.5).collect();
        let b = [0.5 * t as f32 - 1.0, [1.0, f32::INFINITY, 2.0, 0.0, 0.25, f32::NAN, 1.0][t]];
        let all: [(&str, &[usize], &[f32]); 2] = [("w", &[5], &w), ("b", &[2], &b)];
        let given = match t {
            2 => &all[..1],
            3 => &all[..0],
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
fn averages_have_the_layout_of_the_parameters() {
    let desk = Desk::new();
    desk.text("optim.toml", "rule = \"adam\"\nlr = 0.5\n[ema]\ndecay = 0.5\n");
    desk.tensors("w0", &[("w", &[5], &[1.0; 5])]);
    for device in devices() {
        let apply = format!("apply --device {device} --config optim.toml --params p.safetensors");
        desk.succeeds(&format!("{apply} --grads w0 --out-params out --out-ema ema --out-state state"));
        assert_eq!(crate::desk::head(&desk.read("ema")), crate::desk::head(&desk.read("p.safetensors")));
        // After one step the average is the parameters, and what has no gradient is what it was.
        assert_eq!(desk.values("ema", "w"), desk.values("out", "w"), "{device}");
        assert_eq!(desk.values("ema", "b"), desk.values("p.safetensors", "b"), "{device}");
        assert_eq!(desk.values("state", "state.w.ema"), desk.values("ema", "w"), "{device}");
        desk.succeeds(&format!("{apply} --grads w0 w0 --out-params two --out-ema ema"));
        let halves = desk.values("out", "w").into_iter().zip(desk.values("two", "w")).map(|(a, b)| 0.5 * a + 0.5 * b);
        for (found, half) in desk.values("ema", "w").into_iter().zip(halves) {
            assert!((found - half).abs() <= 1e-6 * half.abs().max(1.0), "{device}: {found} for {half}");
        }
        // What is not stepped any more keeps the average that it had.
        desk.tensors("b0", &[("b", &[2], &[1.0; 2])]);
        let first = desk.values("state", "state.w.ema");
        desk.succeeds(&format!("{apply} --state state --grads b0 --out-params three --out-ema ema --out-state again"));
        assert_eq!(desk.values("ema", "w"), first, "{device}");
        assert_eq!(desk.values("again", "state.w.ema"), first, "{device}");
    }
}

#[test]
fn a_tensor_that_has_taken_no_step_is_its_own_average() {
    let desk = Desk::new();
    desk.text("optim.toml", "rule = \"adam\"\n[scaler]\n[ema]\n");
    desk.tensors("inf", &[("w", &[5], &[f32::INFINITY; 5]), ("b", &[2], &[1.0; 2])]);
    for device in devices() {
        let apply = format!("apply --device {device} --config optim.toml --params p.safetensors --grads inf");
        let ran = desk.succeeds(&format!("{apply} --out-params out --out-ema ema --json"));
        assert!(desk.read("out") == desk.read("p.safetensors") && desk.read("ema") == desk.read("out"), "{device}");
        let told: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one JSON object");
        assert_eq!(told["scaler"]["skipped"], 1);
        assert_eq!(told["scaler"]["scale"], 32768.0);
        assert_eq!(told["out_ema"], "ema");
        assert!(ran.stderr.contains("note: step 1 was skipped: a gradient was not finite; the scale is now 32768"));
    }
}

#[test]
fn clips_and_clamps_do_what_they_say() {
    let desk = Desk::new();
    desk.tensors("p.safetensors", &[("w", &[2], &[0.0, 0.0]), ("b", &[1], &[0.0])]);
    desk.tensors("g0.safetensors", &[("w", &[2], &[3.0, -4.0]), ("b", &[1], &[12.0])]);
    // In RMSprop with alpha = 0.75 and eps = 1, a first step of lr 1 is g / (|g| / 2 + 1).
    let step = |g: f32| -g / (0.5 * g.abs() + 1.0);
    for (clip, [w0, w1, b]) in [
        ("value = 2", [2.0, -2.0, 2.0]),
        ("global_norm = 6.5", [1.5, -2.0, 6.0]),
        ("group_norm = 2.5", [1.5, -2.0, 2.5]),
        ("tensor_norm = 2.5\nform = \"keras\"", [1.5, -2.0, 2.5]),
        ("global_norm = 6\nnorm = \"inf\"\nform = \"optax\"", [1.5, -2.0, 6.0]),
        ("global_norm = 100", [3.0, -4.0, 12.0]),
    ] {
        let rest = "[[group]]\nmatch = \"b\"\n";
        let rule = "rule = \"rmsprop\"\nlr = 1\nalpha = 0.75\neps = 1\n";
        desk.text("optim.toml", &format!("{rule}[clip]\n{clip}\n[clamp]\nmax = 1.2\n{rest}"));
        for device in devices() {
            desk.succeeds(&STEP.replace("cpu", device));
            let found = [desk.values("out.safetensors", "w"), desk.values("out.safetensors", "b")].concat();
            for (found, expected) in found.into_iter().zip([w0, w1, b].map(step).map(|p: f32| p.min(1.2))) {
                assert!((found - expected).abs() < 1e-5, "{clip} on {device}: {found} for {expected}");
            }
        }
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

#[test]
fn tables_that_are_wrong_are_refused_with_what_would_be_right() {
    for (tables, why) in [
        ("clip = 1.0", "clip is 1.0, expected a table, [clip]"),
        ("[[clip]]\nvalue = 1", "clip is a list, expected a table, [clip]"),
        ("[clip]", "[clip] needs one of global_norm, group_norm, tensor_norm, value, as in global_norm = 1.0"),
        ("[clip]\nglobal_norm = 1\nvalue = 1", "[clip] has global_norm and value, and only one of"),
        ("[clip]\nglobl_norm = 1", "[clip] there is no key \"globl_norm\"; the nearest is \"global_norm\" of"),
        ("[clip]\nclipnorm = 1", "[clip] there is no key \"clipnorm\"; the nearest is \"tensor_norm\""),
        ("[clip]\nglobal_norm = \"1\"", "[clip] global_norm is \"1\", expected a number"),
        ("[clip]\nglobal_norm = 0", "[clip] global_norm is 0, expected global_norm > 0"),
        ("[clip]\nvalue = nan", "[clip] value is NaN, expected value > 0"),
        ("[clip]\ngroup_norm = inf", "[clip] group_norm is inf, expected group_norm > 0"),
        ("[clip]\nglobal_norm = 1\nnorm = \"l1\"", "[clip] norm is \"l1\", expected one of \"l2\", \"inf\""),
        ("[clip]\nglobal_norm = 1\nnorm = 2", "[clip] norm is 2, expected one of \"l2\", \"inf\""),
        ("[clip]\nglobal_norm = 1\nform = \"jax\"", "expected one of \"pytorch\", \"keras\", \"optax\""),
        ("[clip]\nvalue = 1\nnorm = \"l2\"", "[clip] has value, which takes no norm; leave norm and form out"),
        ("[scaler]\ninit_scale = 0", "[scaler] init_scale is 0, expected init_scale > 0"),
        ("[scaler]\ninit_scale = 1e300", "[scaler] init_scale is 1e300, expected init_scale > 0 that f32 can hold"),
        ("[scaler]\ngrowth_factor = 0.5", "[scaler] growth_factor is 0.5, expected 1 <= growth_factor"),
        ("[scaler]\nbackoff_factor = 1.5", "[scaler] backoff_factor is 1.5, expected 0 <= backoff_factor <= 1"),
        ("[scaler]\ngrowth_interval = 0", "[scaler] growth_interval is 0, expected growth_interval > 0"),
        ("[scaler]\ngrowth_interval = -1", "[scaler] growth_interval is -1, expected a whole number"),
        ("[scaler]\ngrowth_interval = 1.5", "[scaler] growth_interval is 1.5, expected a whole number"),
        ("[scaler]\nint_scale = 1", "the nearest is \"init_scale\" of init_scale, growth_factor"),
        ("[ema]\ndecay = 1", "[ema] decay is 1, expected 0 <= decay < 1"),
        ("[ema]\nmomentum = 0.9", "[ema] there is no key \"momentum\"; the nearest is \"decay\""),
        ("[ema]\noverwrite_every = 4294967296", "[ema] overwrite_every is 4294967296, expected a whole number"),
        ("[clamp]", "[clamp] needs min or max"),
        ("[clamp]\nmin = 1\nmax = 0", "[clamp] max is 0, expected 1 <= max"),
        ("[clamp]\nmin = -inf", "[clamp] min is -inf, expected"),
        ("clam = 1", "there is no key \"clam\"; the nearest is \"clamp\""),
        ("[[group]]\nmatch = \"b\"\nclip = { value = 1 }", "[[group]] 1: \"clip\" does not stand here"),
    ] {
        refuses(tables, &[why]);
    }
}

#[test]
fn schedules_that_are_wrong_are_refused_with_what_would_be_right() {
    for (tables, why) in [
        ("schedule = \"cosine\"", "schedule is \"cosine\", expected a table"),
        ("[[schedule]]\nkind = \"linear\"", "schedule is a list, expected a table"),
        ("[schedule]", "[schedule] the key \"kind\" is missing"),
        ("[schedule]\nkind = 3", "[schedule] kind is 3, expected a name in quotes"),
        (
            "[schedule]\nkind = \"onecycle\"",
            "[schedule] there is no kind \"onecycle\"; the nearest is \"one_cycle\" of",
        ),
        ("[schedule]\nkind = \"cosine\"", "[schedule] of kind \"cosine\": missing field `t_max`"),
        (
            "[schedule]\nkind = \"cosine\"\nT_max = 3",
            "unknown field `T_max`, expected `t_max` or `eta_min`; the nearest is \"t_max\"",
        ),
        ("[schedule]\nkind = \"cosine\"\nt_max = \"3\"", "[schedule] of kind \"cosine\": invalid type: string \"3\""),
        ("[schedule]\nkind = \"cosine\"\nt_max = -3", "invalid value: integer `-3`"),
        ("[schedule]\nkind = \"cosine\"\nt_max = 0", "schedule cosine: t_max is 0, expected t_max >= 1"),
        ("[schedule]\nkind = \"linear\"\nstart_factor = nan", "schedule linear: start_factor is NaN"),
        ("[schedule]\nkind = \"linear\"\nat = 3", "[schedule] \"at\" does not stand here"),
        ("[schedule]\nkind = \"linear\"\n[schedule.then]\nat = 5", "written [[schedule.then]], in double brackets"),
        ("[schedule]\nkind = \"linear\"\nthen = [3]", "[[schedule.then]] 1: found 3, expected a table"),
        (
            "[schedule]\nkind = \"linear\"\n[[schedule.then]]\nkind = \"linear\"",
            "[[schedule.then]] 1: the key \"at\" is missing",
        ),
        (
            "[schedule]\nkind = \"linear\"\n[[schedule.then]]\nat = -1\nkind = \"linear\"",
            "[[schedule.then]] 1: at is -1, expected a step",
        ),
        (
            "[schedule]\nkind = \"linear\"\n[[schedule.then]]\nat = 5\nkind = \"linera\"",
            "[[schedule.then]] 1: there is no kind \"linera\"; the nearest is \"linear\"",
        ),
        (
            "[schedule]\nkind = \"linear\"\n[[schedule.then]]\nat = 0\nkind = \"linear\"",
            "at is 0, expected a step after 0",
        ),
        (
            "lr = [0.5]\n[schedule]\nkind = \"linear\"",
            "lr is a list, and there is a schedule: both say which lr each step has",
        ),
        (
            "beta1 = [0.5]\n[schedule]\nkind = \"one_cycle\"\nmax_lr = 1\ntotal_steps = 9",
            "beta1 is a list, and there is a schedule",
        ),
        (
            "[[group]]\nmatch = \"b\"\nlr = [0.5]\nschedule = { kind = \"linear\" }",
            "[[group]] 1: lr is a list, and there is a schedule",
        ),
        (
            "[schedule]\nkind = \"linear\"\n[[group]]\nmatch = \"b\"\nlr = [0.5]",
            "[[group]] 1: lr is a list, and there is a schedule",
        ),
        ("[[group]]\nmatch = \"b\"\nschedule = { kind = \"lin\" }", "[[group]] 1: [schedule] there is no kind \"lin\""),
    ] {
        refuses(tables, &[why]);
    }
    let desk = Desk::new();
    let cycle = "[schedule]\nkind = \"one_cycle\"\nmax_lr = 1\ntotal_steps = 9\n";
    desk.text("optim.toml", &format!("rule = \"rmsprop\"\n{cycle}"));
    let parts = ["error: optim.toml: the schedule cycles the momentum, and momentum > 0 would go from false to true"];
    desk.refuses(STEP, 2, &parts);
    desk.text("optim.toml", &format!("rule = \"rmsprop\"\n{cycle}cycle_momentum = false\n"));
    desk.succeeds(STEP);
}

/// Steps with these tables, which are refused.
fn refuses(tables: &str, parts: &[&str]) {
    let desk = Desk::new();
    desk.text("optim.toml", &format!("rule = \"adam\"\n{tables}\n"));
    let parts: Vec<&str> = parts.iter().copied().chain(["error: optim.toml: "]).collect();
    desk.refuses(STEP, 2, &parts);
}

#[test]
fn lists_may_stand_beside_a_schedule_of_other_tensors_and_of_other_numbers() {
    let desk = Desk::new();
    desk.text(
        "optim.toml",
        "rule = \"adam\"\nlr = [0.5]\nbeta1 = [0.5]\n[[group]]\nmatch = \"b\"\nlr = 0.5\nschedule = { kind = \"linear\" }\n",
    );
    desk.succeeds(STEP);
}

#[test]
fn explain_tells_the_chain_the_schedule_and_what_the_average_takes() {
    let desk = Desk::new();
    desk.text("optim.toml", ALL);
    for device in devices() {
        let explain = format!("apply --explain --device {device} --config optim.toml --params p.safetensors");
        let told = desk.succeeds(&explain).stdout;
        for part in [
            "clip:     g *= min(1, 0.75 / (norm + 1e-6)), where norm is the root of the sum of squares over all gradients",
            "scaler:   g = grad / scale, and scale is 8 at first",
            "scale *= 2 after 2 clean steps; where a gradient is not finite, the step is skipped and scale *= 0.5",
            "ema:      ema = 0.75 * ema + (1 - 0.75) * p, and ema = p after the first step; p = ema after every 3 steps",
            "clamp:    p = min(max(p, -1.9), 2.9)",
            "from step 0 one_cycle(max_lr = 0.1, total_steps = 7, pct_start = 0.3",
            "from step 4 exponential(gamma = 0.5)",
            "28 bytes of ema",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let told = desk.succeeds(&format!("{explain} --json")).stdout;
        let told: serde_json::Value = serde_json::from_str(&told).expect("one JSON object");
        assert_eq!(told["chain"]["clip"]["form"], "pytorch");
        assert_eq!(told["groups"][0]["schedule"]["then"][0]["at"], 4);
        assert_eq!(told["groups"][1]["schedule"]["kind"], "one_cycle");
        assert_eq!(told["ema"], 28);
    }
    for (preset, form) in [("keras", "keras"), ("tf-keras-legacy", "keras"), ("optax", "optax"), ("article", "optax")] {
        desk.text("optim.toml", &format!("rule = \"adam\"\npreset = {preset:?}\nlr = 1\n[clip]\ntensor_norm = 1\n"));
        let explain = "apply --explain --json --device cpu --config optim.toml --params p.safetensors";
        let told: serde_json::Value = serde_json::from_str(&desk.succeeds(explain).stdout).expect("one JSON object");
        assert_eq!(told["chain"]["clip"]["form"], form, "{preset}");
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
