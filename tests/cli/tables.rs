//! The tables around the update: what is wrong in them, and how they are explained.

use crate::desk::{Desk, STEP, devices};
use crate::going_on::ALL;

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
        ("[schedule]\nkind = \"CosineAnnealingLR\"", "the nearest is \"cosine\" of"),
        ("[schedule]\nkind = \"MultiStepLR\"", "the nearest is \"multi_step\" of"),
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
            "decision    ",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let told = desk.succeeds(&format!("{explain} --json")).stdout;
        let told: serde_json::Value = serde_json::from_str(&told).expect("one JSON object");
        assert_eq!(told["chain"]["clip"]["form"], "pytorch");
        assert_eq!(told["groups"][0]["schedule"]["then"][0]["at"], 4);
        assert_eq!(told["groups"][1]["schedule"]["kind"], "one_cycle");
        assert_eq!(told["ema"], 28);
        assert_eq!((&told["plan"]["slots"]["ema"], &told["plan"]["decision"]["scaler"]), (&28.into(), &16.into()));
    }
    for (preset, form) in [("keras", "keras"), ("tf-keras-legacy", "keras"), ("optax", "optax"), ("article", "optax")] {
        desk.text("optim.toml", &format!("rule = \"adam\"\npreset = {preset:?}\nlr = 1\n[clip]\ntensor_norm = 1\n"));
        let explain = "apply --explain --json --device cpu --config optim.toml --params p.safetensors";
        let told: serde_json::Value = serde_json::from_str(&desk.succeeds(explain).stdout).expect("one JSON object");
        assert_eq!(told["chain"]["clip"]["form"], form, "{preset}");
    }
}
