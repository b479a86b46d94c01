//! The table `[format]`: what is wrong in it, how groups override it, and how it is explained.

use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use crate::desk::{Desk, STEP};

#[test]
fn keys_that_are_wrong_are_refused_with_what_would_be_right() {
    for (tables, why) in [
        ("format = \"bf16\"", "format is \"bf16\", expected a table, [format]"),
        ("[format]\nparam = \"bf16\"", "[format] there is no key \"param\"; the nearest is \"params\" of"),
        ("[format]\ndtype = \"bf16\"", "the nearest is \"params\""),
        ("[format]\noptim_bits = 8", "the nearest is \"state\""),
        ("[format]\nmin_8bit_size = 8", "the nearest is \"q8_min\""),
        ("[format]\nbf16_stochastic_round = true", "the nearest is \"rounding\""),
        (
            "[format]\nparams = \"bfloat16\"",
            "[format] params is \"bfloat16\", expected one of \"f32\", \"f16\", \"bf16\"",
        ),
        ("[format]\nparams = 16", "[format] params is 16, expected one of \"f32\", \"f16\", \"bf16\""),
        ("[format]\ngrads = \"q8\"", "[format] grads is \"q8\", expected one of \"f32\", \"f16\", \"bf16\""),
        ("[format]\nmaster = 1", "[format] master is 1, expected true or false"),
        ("[format]\nstate = \"f16\"", "[format] state is \"f16\", expected one of \"f32\", \"bf16\", \"q8\""),
        ("[format]\nstate = 8", "[format] state is 8, expected a word, or a table of slots as in state = {"),
        ("[format]\nstate = [\"q8\"]", "[format] state is a list, expected a word, or a table of slots"),
        (
            "[format]\nstate = { exp_avg = \"q4\" }",
            "[format] state: exp_avg is \"q4\", expected one of \"f32\", \"bf16\", \"q8\"",
        ),
        ("[format]\nstate = { exp_avg = {} }", "[format] state: exp_avg is a table, expected one of"),
        (
            "[format]\nstate = { exp_av = \"q8\" }",
            "[format] state: there is no slot \"exp_av\"; the nearest is \"exp_avg\" of exp_avg,",
        ),
        ("[format]\nstate = { ema = \"bf16\" }", "[format] state: there is no slot \"ema\"; the nearest is"),
        (
            "[format]\nrounding = \"up\"",
            "[format] rounding is \"up\", expected one of \"nearest\", \"stochastic\", \"kahan\"",
        ),
        ("[format]\nseed = -1", "[format] seed is -1, expected a whole number from 0 to 9223372036854775807"),
        ("[format]\nseed = 0.5", "[format] seed is 0.5, expected a whole number"),
        ("[format]\nq8_min = \"4k\"", "[format] q8_min is \"4k\", expected a whole number"),
        ("[format]\nq8_zero = true", "[format] q8_zero is true, expected one of \"guarded\", \"reference\""),
        ("[format]\nparams = \"f32\"\nmaster = true", "[format] master is true, expected false where params are f32"),
        (
            "[format]\nparams = \"f32\"\nrounding = \"kahan\"",
            "[format] rounding is \"kahan\", expected \"nearest\" where params are f32",
        ),
        (
            "[format]\nmaster = true\nrounding = \"kahan\"",
            "[format] rounding is \"kahan\", expected no master beside it",
        ),
        (
            "[[group]]\nmatch = \"b\"\n[group.format]\nparams = \"q8\"",
            "[[group]] 1: [format] params is \"q8\", expected one of",
        ),
        (
            "[format]\nmaster = true\n[[group]]\nmatch = \"b\"\nformat = { rounding = \"kahan\" }",
            "[[group]] 1: [format] rounding is \"kahan\", expected no master beside it",
        ),
        ("formats = 1", "there is no key \"formats\"; the nearest is \"format\" of"),
    ] {
        let desk = Desk::new();
        desk.text("optim.toml", &format!("rule = \"adam\"\n{tables}\n"));
        desk.refuses(STEP, 2, &["error: optim.toml: ", why]);
    }
}

#[test]
fn slots_are_those_of_the_rule() {
    let desk = Desk::new();
    desk.text("optim.toml", "rule = \"rmsprop\"\n[format]\nstate = { exp_avg = \"q8\" }\n");
    desk.refuses(STEP, 2, &["error: optim.toml: [format] state: there is no slot \"exp_avg\"", "square_avg"]);
}

#[test]
fn moments_that_are_subtracted_are_not_rounded() {
    let desk = Desk::new();
    let refused = |tables: &str, why: &str| {
        desk.text("optim.toml", &format!("rule = \"rmsprop\"\nlr = 0.01\n{tables}"));
        desk.refuses(STEP, 2, &["error: optim.toml: ", why, "set clamp_centered = true, or keep"]);
    };
    refused("centered = true\n[format]\nstate = \"q8\"\n", "[format] state: square_avg cannot be kept in q8: where");
    let slot = "centered = true\n[format]\nstate = { grad_avg = \"bf16\" }\n";
    refused(slot, "[format] state: grad_avg cannot be kept in bf16: where");
    let group = "[format]\nstate = \"q8\"\n[[group]]\nmatch = \"w\"\ncentered = true\n";
    refused(group, "[[group]] 1: [format] state: square_avg cannot be kept in q8: where");
    desk.text("optim.toml", "rule = \"rmsprop\"\ncentered = true\nclamp_centered = true\n[format]\nstate = \"q8\"\n");
    desk.succeeds(STEP);
}

/// What `--explain --json` tells of this config, for `w` of BF16 and 600 elements, `b` of F32 and 3.
fn explained(tables: &str) -> Value {
    let desk = Desk::new();
    desk.formatted(
        "p.safetensors",
        &[("w", Dtype::BF16, &[20, 30], &[1.0; 600]), ("b", Dtype::F32, &[3], &[1.0, 2.0, 3.0])],
    );
    desk.text("optim.toml", &format!("rule = \"adam\"\n{tables}\n"));
    let told = desk.succeeds("apply --explain --json --device cpu --config optim.toml --params p.safetensors").stdout;
    serde_json::from_str(&told).expect("one JSON object")
}

/// The formats of a tensor's parameters, gradients and slots.
fn lies(told: &Value, name: &str) -> String {
    let tensors = told["tensors"].as_array().expect("tensors");
    let tensor = tensors.iter().find(|tensor| tensor["name"] == name).expect("the tensor");
    let slots = tensor["slots"].as_object().expect("slots").iter();
    let slots = slots.map(|(slot, told)| format!(" {slot} {}", told["format"].as_str().unwrap_or_default()));
    let word = |role: &str| tensor[role]["format"].as_str().unwrap_or_default().to_string();
    format!("{} {}{}", word("params"), word("grads"), slots.collect::<String>())
}

#[test]
fn without_keys_tensors_lie_as_their_files_have_them() {
    let told = explained("");
    assert_eq!(lies(&told, "w"), "bf16 bf16 exp_avg f32 exp_avg_sq f32");
    assert_eq!(lies(&told, "b"), "f32 f32 exp_avg f32 exp_avg_sq f32");
}

#[test]
fn each_key_is_seen_where_it_acts() {
    let told = explained("[format]\nmaster = true\ngrads = \"f32\"\nstate = \"bf16\"");
    assert_eq!(lies(&told, "w"), "bf16 f32 exp_avg bf16 exp_avg_sq bf16 master_param f32");
    assert_eq!(lies(&told, "b"), "f32 f32 exp_avg bf16 exp_avg_sq bf16");
    let told = explained("[format]\nrounding = \"kahan\"\nstate = { exp_avg_sq = \"q8\" }\nq8_min = 600");
    assert_eq!(lies(&told, "w"), "bf16 bf16 exp_avg f32 exp_avg_sq q8 kahan_comp bf16");
    assert_eq!(lies(&told, "b"), "f32 f32 exp_avg f32 exp_avg_sq f32");
    let told = explained("[format]\nstate = \"q8\"\nq8_min = 601");
    assert_eq!(lies(&told, "w"), "bf16 bf16 exp_avg f32 exp_avg_sq f32");
}

#[test]
fn a_group_overrides_key_by_key_and_a_word_for_the_state_all_slots() {
    let file = "[format]\nmaster = true\nq8_min = 0\nstate = { exp_avg = \"q8\" }\n";
    let group = |keys: &str| explained(&format!("{file}[[group]]\nmatch = \"w\"\nformat = {{ {keys} }}"));
    assert_eq!(lies(&group("grads = \"f32\""), "w"), "bf16 f32 exp_avg q8 exp_avg_sq f32 master_param f32");
    assert_eq!(lies(&group("master = false"), "w"), "bf16 bf16 exp_avg q8 exp_avg_sq f32");
    let told = group("state = { exp_avg_sq = \"bf16\" }");
    assert_eq!(lies(&told, "w"), "bf16 bf16 exp_avg q8 exp_avg_sq bf16 master_param f32");
    assert_eq!(lies(&told, "b"), "f32 f32 exp_avg q8 exp_avg_sq f32");
    assert_eq!(lies(&group("state = \"bf16\""), "w"), "bf16 bf16 exp_avg bf16 exp_avg_sq bf16 master_param f32");
    let told = group("seed = 7");
    assert_eq!(told["groups"][0]["format"]["seed"], 7);
    assert_eq!(told["groups"][1]["format"], json!({"master": true, "slots": {"exp_avg": "q8"}, "q8_min": 0}));
}

#[test]
fn explain_tells_bytes_before_any_is_taken() {
    let told = explained("[format]\nmaster = true\ngrads = \"f32\"\nstate = \"q8\"\nq8_min = 10");
    let tensors = told["tensors"].as_array().expect("tensors");
    let w = tensors.iter().find(|tensor| tensor["name"] == "w").expect("w");
    let bytes = |told: &Value| told["bytes"].as_u64().expect("bytes");
    assert_eq!((bytes(&w["params"]), bytes(&w["grads"])), (1200, 2400));
    // Codes, and the scales of three blocks.
    assert_eq!(bytes(&w["slots"]["exp_avg"]), 612);
    assert_eq!(bytes(&w["slots"]["master_param"]), 2400);
    let plan = &told["plan"];
    // `b` is too short for 8 bits.
    assert_eq!(plan["slots"], json!({"exp_avg": 612 + 12, "exp_avg_sq": 612 + 12, "master_param": 2400}));
    let sum = |pages: &Value| pages.as_array().expect("pages").iter().map(|page| page.as_u64().expect("bytes")).sum();
    let (params, grads): (u64, u64) = (sum(&plan["params"]), sum(&plan["grads"]));
    assert!((1212..2400).contains(&params) && (2412..4800).contains(&grads), "{params} and {grads}");
    assert!(plan["tables"].as_u64() > Some(0) && plan["staging"].as_u64() > Some(0), "{plan}");
}

#[test]
fn explained_formats_fit_into_80_columns() {
    let desk = Desk::new();
    desk.formatted("p.safetensors", &[("layer.0.weight", Dtype::F16, &[4096], &[1.0; 4096])]);
    desk.text("optim.toml", "rule = \"adam\"\namsgrad = true\n[format]\nrounding = \"kahan\"\nstate = \"q8\"\n");
    let told = desk.succeeds("apply --explain --device cpu --config optim.toml --params p.safetensors").stdout;
    for part in
        ["layer.0.weight [4096]", "params f16 8.0 KiB, grads f16 8.0 KiB", "exp_avg q8 4.1 KiB", "kahan_comp f16"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(told.contains("  format\n    state = \"q8\"\n    rounding = \"kahan\"\n"), "{told}");
    assert!(told.lines().all(|line| line.chars().count() <= 80), "{told}");
}

#[test]
fn keys_that_do_nothing_are_a_warning() {
    let desk = Desk::new();
    for key in ["master = true", "rounding = \"kahan\"", "rounding = \"stochastic\""] {
        desk.text("optim.toml", &format!("rule = \"adam\"\n[format]\n{key}\n"));
        let told =
            format!("warning: optim.toml: [format] {key} does nothing: the tensors that it is said of are F32\n");
        assert_eq!(desk.succeeds(STEP).stderr, told);
    }
    desk.text("optim.toml", "rule = \"adam\"\n[format]\nseed = 3\nq8_min = 1\n");
    assert_eq!(desk.succeeds(STEP).stderr, "");
    // It does something for one of two.
    desk.text("optim.toml", "rule = \"adam\"\n[format]\nmaster = true\n[[group]]\nmatch = \"b\"\n");
    desk.formatted("p.safetensors", &[("w", Dtype::BF16, &[5], &[1.0; 5]), ("b", Dtype::F32, &[2], &[1.0; 2])]);
    assert_eq!(desk.succeeds(STEP).stderr, "");
}
