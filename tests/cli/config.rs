//! What can be wrong in `optim.toml`, and with the options: exit code 2.

use crate::desk::{Desk, STEP};

/// Runs a step with this config, which is refused with a message that names the file.
fn refuses(config: &str, parts: &[&str]) {
    let desk = Desk::new();
    desk.text("optim.toml", config);
    let parts: Vec<&str> = parts.iter().copied().chain(["error: optim.toml: "]).collect();
    desk.refuses(STEP, 2, &parts);
}

#[test]
fn an_unknown_key_names_the_nearest_right_one() {
    refuses("rule = \"adam\"\nbeta3 = 0.9\n", &["there is no key \"beta3\"; the nearest is \"beta1\" of lr, beta1"]);
    refuses("rule = \"adam\"\nlearning_rate = 0.9\n", &["the nearest is \"lr\""]);
    refuses("rule = \"rmsprop\"\nrho = 0.9\n", &["the nearest is \"alpha\""]);
    refuses("rule = \"rmsprop\"\nbeta2 = 0.9\n", &["the nearest is \"alpha\""]);
    refuses("rule = \"adam\"\nb1 = 0.9\n", &["the nearest is \"beta1\""]);
    refuses("rule = \"adam\"\n[[groups]]\nmatch = \"b\"\n", &["there is no key \"groups\"", "[[group]]"]);
    refuses("rule = \"adam\"\n[[group]]\nmatch = \"b\"\nweigth_decay = 0.1\n", &["[[group]] 1: ", "\"weight_decay\""]);
}

#[test]
fn a_key_of_another_rule_says_whose_it_is() {
    refuses("rule = \"adamw\"\nalpha = 0.9\n", &["\"alpha\" belongs to rmsprop, not to adamw"]);
    refuses("rule = \"rmsprop\"\namsgrad = true\n", &["\"amsgrad\" belongs to adam and adamw, not to rmsprop"]);
}

#[test]
fn unknown_rules_and_presets_list_what_there_is() {
    refuses("rule = \"adamv\"\n", &["no rule \"adamv\"", "\"adam\", \"adamw\", \"rmsprop\""]);
    refuses("rule = \"adamw\"\npreset = \"tf-keras-legacy\"\n", &["adamw has no preset", "\"pytorch\", \"keras\""]);
    refuses("preset = \"keras\"\n", &["the key \"rule\" is missing"]);
    refuses("rule = 3\n", &["rule is 3, expected a name"]);
}

#[test]
fn a_preset_without_a_default_asks_for_the_setting() {
    refuses("rule = \"adam\"\npreset = \"optax\"\n", &["lr", "must be given"]);
    refuses("rule = \"adamw\"\npreset = \"article\"\n", &["weight_decay", "must be given"]);
}

#[test]
fn values_of_the_wrong_kind_or_range_are_refused() {
    refuses("rule = \"adam\"\nlr = \"fast\"\n", &["lr is \"fast\", expected a number"]);
    refuses("rule = \"adam\"\namsgrad = 1\n", &["amsgrad is 1, expected true or false"]);
    refuses("rule = \"adam\"\nepsilon = \"within\"\n", &["\"outside\", \"inside\", \"hat\""]);
    refuses("rule = \"adam\"\nbeta2 = 1\n", &["beta2 is 1, expected 0 <= beta2 < 1"]);
    refuses("rule = \"adam\"\nlr = -1.0\n", &["lr is -1"]);
    refuses("rule = \"adam\"\nlr = nan\n", &["lr is nan"]);
    refuses("rule = \"adam\"\nlr = 1979-05-27\n", &["lr is 1979-05-27, expected a number"]);
    refuses("rule = \"adam\"\n[[group]]\nmatch = \"b\"\nlr = inf\n", &["[[group]] 1: ", "lr is inf"]);
}

#[test]
fn lists_have_a_value_for_each_file_and_are_for_few_settings() {
    refuses("rule = \"adam\"\nlr = [0.1, 0.2, 0.3]\n", &["lr is a list of 3 values, and --grads gives 1 file"]);
    refuses("rule = \"adam\"\nlr = []\n", &["lr is a list of 0 values"]);
    refuses("rule = \"adam\"\nbeta2 = [0.9]\n", &["beta2 cannot be a list", "\"lr\", \"beta1\", \"momentum\""]);
    refuses("rule = \"adam\"\nlr = [true]\n", &["lr is true, expected a number"]);
    refuses("rule = \"adam\"\n[[group]]\nmatch = \"b\"\nlr = [1.0, 2.0]\n", &["[[group]] 1: lr is a list of 2 values"]);
}

#[test]
fn a_list_that_would_change_what_is_kept_is_refused() {
    let desk = Desk::new();
    desk.text("optim.toml", "rule = \"rmsprop\"\nmomentum = [0.0, 0.9]\n");
    let parts = ["error: optim.toml: ", "momentum > 0 is false in step 1 and true in step 2"];
    desk.refuses(&format!("{STEP} --grads g1.safetensors"), 2, &parts);
    desk.text("optim.toml", "rule = \"rmsprop\"\nmomentum = [0.9, 1.5]\n");
    desk.refuses(&format!("{STEP} --grads g1.safetensors"), 2, &["error: optim.toml: step 2: ", "momentum is 1.5"]);
}

#[test]
fn groups_need_a_regex() {
    refuses("rule = \"adam\"\n[[group]]\nlr = 0.1\n", &["[[group]] 1: the key \"match\" is missing"]);
    refuses("rule = \"adam\"\n[[group]]\nmatch = \"(\"\n", &["[[group]] 1: match is no regex", "unclosed group"]);
    refuses("rule = \"adam\"\n[group]\nmatch = \"b\"\n", &["a group is written [[group]]"]);
    refuses("rule = \"adam\"\ngroup = [3]\n", &["[[group]] 1: found 3"]);
    refuses("rule = \"adam\"\n[[group]]\nmatch = 3\n", &["[[group]] 1: match is 3, expected a regex in quotes"]);
    refuses("rule = \"adam\"\n[[group]]\nmatch = \"b\"\nrule = \"rmsprop\"\n", &["\"rule\" does not stand here"]);
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_refused() {
    refuses("rule = \n", &["line 1"]);
    let desk = Desk::new();
    let line = STEP.replace("optim.toml", "missing.toml");
    desk.refuses(&line, 2, &["error: missing.toml: No such file"]);
    desk.bytes("optim.toml", b"\xff\xfe");
    desk.refuses(STEP, 2, &["error: optim.toml: "]);
    let deep = format!("rule = \"adam\"\nlr = {}{}\n", "[".repeat(10_000), "]".repeat(10_000));
    desk.text("optim.toml", &deep);
    desk.refuses(STEP, 2, &["error: optim.toml: "]);
}

#[test]
fn a_config_without_end_is_refused() {
    let desk = Desk::new();
    desk.text("optim.toml", &format!("rule = \"adam\" #{}", "x".repeat(1 << 24)));
    desk.refuses(STEP, 2, &["error: optim.toml: longer than 16777216 bytes"]);
    if cfg!(unix) {
        desk.refuses(&STEP.replace("optim.toml", "/dev/zero"), 2, &["error: /dev/zero: longer than 16777216 bytes"]);
    }
}

#[test]
fn many_groups_take_no_time() {
    let desk = Desk::new();
    desk.text("optim.toml", &format!("rule = \"adam\"\n{}", "[[group]]\nmatch = \"w\"\n".repeat(2_000)));
    let told = desk.succeeds(STEP).stderr;
    assert_eq!(told.matches("matches only tensors that an earlier group takes").count(), 1_999);
}

#[test]
fn idle_groups_are_a_warning() {
    let desk = Desk::new();
    desk.text(
        "optim.toml",
        "rule = \"adam\"\n[[group]]\nmatch = \"x\"\n[[group]]\nmatch = \"b\"\n[[group]]\nmatch = \"^b\"\n",
    );
    let told = desk.succeeds(STEP).stderr;
    assert!(told.contains("warning: optim.toml: group 1 (match = \"x\") matches no tensor"), "{told}");
    assert!(told.contains("group 3 (match = \"^b\") matches only tensors that an earlier group takes"), "{told}");
    assert!(!told.contains("group 2"), "{told}");
}

#[test]
fn options_that_are_wrong_exit_with_2() {
    let desk = Desk::new();
    desk.refuses("apply", 2, &["--config"]);
    desk.refuses("apply --config optim.toml --params p.safetensors", 2, &["--grads", "--out-params"]);
    desk.refuses("walk", 2, &["unrecognized subcommand"]);
    desk.refuses(&STEP.replace("cpu", "tpu"), 2, &["auto, gpu, cpu"]);
    desk.refuses(&format!("{STEP} --adapter llvm"), 2, &["--adapter llvm asks for an adapter"]);
    let ran = desk.run_words(STEP.split_whitespace().chain(["--adapter", ""]));
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("a value is required for '--adapter <NAME>'"), "{}", ran.stderr);
}

#[test]
fn help_and_version_exit_with_0() {
    let desk = Desk::new();
    assert!(desk.succeeds("--help").stdout.contains("apply"));
    assert!(desk.succeeds("apply --help").stdout.contains("--out-params"));
    assert_eq!(desk.succeeds("--version").stdout, format!("wgpu-optim {}\n", env!("CARGO_PKG_VERSION")));
}
