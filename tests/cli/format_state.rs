//! State files of every format: what lies in them, going on with them, and what does not fit.

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};

use crate::desk::{Desk, decoded, devices, encoded};

/// What `[format]` says, each of which keeps state in another way.
const TABLES: [&str; 7] = [
    "state = \"bf16\"",
    "state = \"q8\"\nq8_min = 0",
    "master = true\nstate = { exp_avg = \"q8\" }\nq8_min = 300",
    "rounding = \"kahan\"\ngrads = \"f32\"",
    "rounding = \"stochastic\"\nseed = 11\nstate = \"bf16\"",
    "rounding = \"stochastic\"\nmaster = true\nstate = \"q8\"\nq8_min = 10\nq8_zero = \"reference\"",
    "",
];

fn spread(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 131 + seed * 57) % 211) as f32 / 105.0 - 1.0).collect()
}

/// A desk with tensors of odd lengths and all formats, and four files of gradients, of which the third lacks `h`.
fn laid_out(table: &str) -> Desk {
    let desk = Desk::new();
    desk.text("optim.toml", &format!("rule = \"adam\"\nlr = 0.01\n[format]\n{table}\n"));
    let tensors =
        |seed: usize, of: [Dtype; 3]| [spread(601, seed), spread(257, seed + 1), spread(5, seed + 2)].map(|x| (of, x));
    let write = |file: &str, seed: usize, of: [Dtype; 3], skip: bool| {
        let [(_, w), (_, h), (_, b)] = tensors(seed, of);
        let all: [(&str, Dtype, &[usize], &[f32]); 3] =
            [("w", of[0], &[601], &w), ("h", of[1], &[257], &h), ("b", of[2], &[5], &b)];
        let given: Vec<_> = all.into_iter().filter(|tensor| !(skip && tensor.0 == "h")).collect();
        desk.formatted(file, &given);
    };
    write("p", 0, [Dtype::BF16, Dtype::F16, Dtype::F32], false);
    for step in 0..4 {
        write(&format!("g{step}"), 10 * step + 3, [Dtype::BF16, Dtype::F32, Dtype::F32], step == 2);
    }
    desk
}

fn apply(device: &str) -> String {
    format!("apply --device {device} --config optim.toml")
}

#[test]
fn going_on_is_never_having_stopped_in_every_format() {
    for table in TABLES {
        let desk = laid_out(table);
        for device in devices() {
            let apply = apply(device);
            desk.succeeds(&format!("{apply} --params p --grads g0 g1 g2 g3 --out-params a --out-state a-state"));
            for stop in 1..4 {
                let grads = ["g0", "g1", "g2", "g3"];
                let (first, then) = (grads[..stop].join(" "), grads[stop..].join(" "));
                desk.succeeds(&format!("{apply} --params p --grads {first} --out-params b1 --out-state b1-state"));
                let resume = format!("{apply} --params b1 --state b1-state --grads {then}");
                let told = desk.succeeds(&format!("{resume} --out-params b2 --out-state b2-state")).stderr;
                assert_eq!(told, "", "{table}");
                assert!(desk.read("a") == desk.read("b2"), "{device}, stopped after {stop}: parameters\n{table}");
                assert!(
                    desk.read("a-state") == desk.read("b2-state"),
                    "{device}, stopped after {stop}: state\n{table}"
                );
            }
        }
    }
}

#[test]
fn state_crosses_between_devices_in_every_format() {
    for table in TABLES.iter().filter(|_| devices().len() > 1) {
        let desk = laid_out(table);
        for (first, then) in [("cpu", "gpu"), ("gpu", "cpu"), ("cpu", "cpu")] {
            let (begin, go_on) = (apply(first), apply(then));
            desk.succeeds(&format!("{begin} --params p --grads g0 g1 --out-params half --out-state state"));
            desk.succeeds(&format!("{go_on} --params half --state state --grads g2 g3 --out-params {first}-{then}"));
        }
        for other in ["cpu-gpu", "gpu-cpu"] {
            desk.succeeds(&format!("compare cpu-cpu {other} --before p"));
        }
    }
}

/// The state after the first step on the CPU.
fn stepped(table: &str) -> Desk {
    let desk = laid_out(table);
    desk.succeeds(&format!("{} --params p --grads g0 --out-params out --out-state s", apply("cpu")));
    desk
}

/// Goes on from `s`.
fn resume() -> String {
    format!("{} --params p --state s --grads g1 --out-params again", apply("cpu"))
}

#[test]
fn slots_lie_in_their_own_formats_under_clear_keys() {
    let desk = stepped("state = { exp_avg = \"q8\", exp_avg_sq = \"bf16\" }\nq8_min = 257\nmaster = true");
    let bytes = desk.read("s");
    let file = SafeTensors::deserialize(&bytes).expect("a sound file");
    for (key, dtype, shape) in [
        ("w.exp_avg", Dtype::U8, &[601][..]),
        ("w.exp_avg.scale", Dtype::F32, &[3]),
        ("w.exp_avg_sq", Dtype::BF16, &[601]),
        ("w.master_param", Dtype::F32, &[601]),
        ("h.exp_avg.scale", Dtype::F32, &[2]),
        ("h.master_param", Dtype::F32, &[257]),
        ("b.exp_avg", Dtype::F32, &[5]),
        ("b.exp_avg_sq", Dtype::BF16, &[5]),
        ("b.step", Dtype::F32, &[]),
    ] {
        let tensor = file.tensor(&format!("state.{key}")).expect(key);
        assert_eq!((tensor.dtype(), tensor.shape()), (dtype, shape), "{key}");
    }
    assert!(file.tensor("state.b.master_param").is_err(), "f32 is its own master");
    assert!(file.tensor("state.b.exp_avg.scale").is_err(), "b is too small for 8 bits");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
    let metadata = header.metadata().as_ref().expect("metadata");
    assert_eq!(metadata["params"], "{\"h\":\"f16\",\"w\":\"bf16\"}");
    let groups: serde_json::Value = serde_json::from_str(&metadata["groups"]).expect("JSON");
    let slots = serde_json::json!({"exp_avg": "q8", "exp_avg_sq": "bf16"});
    assert_eq!(groups[0]["format"], serde_json::json!({"master": true, "slots": slots, "q8_min": 257}));
    // The largest magnitude of a block is its scale, and has a code of its own.
    let codes = file.tensor("state.w.exp_avg").expect("codes").data()[..256].to_vec();
    assert!(codes.iter().any(|code| [0, 255].contains(code)));
}

#[test]
fn every_tensor_lies_at_a_multiple_of_its_elements() {
    let desk = stepped("rounding = \"kahan\"\nstate = { exp_avg = \"q8\", exp_avg_sq = \"bf16\" }\nq8_min = 0");
    let (_, header) = SafeTensors::read_metadata(&desk.read("s")).expect("a header");
    for (name, tensor) in header.tensors() {
        let size = tensor.dtype.bitsize() / 8;
        assert_eq!(tensor.data_offsets.0 % size, 0, "{name}");
    }
}

#[test]
fn a_resume_whose_config_has_another_format_is_refused_with_what_to_do() {
    let never = "state is never cast: set state = ";
    for (made, then, parts) in [
        (
            "",
            "state = \"bf16\"",
            &["\"state.w.exp_avg\" is F32, expected BF16", never, "{ exp_avg = \"f32\" } in [format]"][..],
        ),
        (
            "state = \"bf16\"",
            "",
            &["\"state.b.exp_avg_sq\" is BF16, expected F32", "{ exp_avg_sq = \"bf16\" } in [format]"],
        ),
        ("state = \"q8\"\nq8_min = 0", "", &["\"state.w.exp_avg\" is U8, expected F32", "{ exp_avg = \"q8\" }"]),
        ("", "state = \"q8\"\nq8_min = 0", &["\"state.w.exp_avg\" is F32, expected U8", "{ exp_avg = \"f32\" }"]),
        (
            "state = \"q8\"\nq8_min = 257",
            "state = \"q8\"\nq8_min = 300",
            &["\"state.h.exp_avg\" is U8, expected F32", "lower q8_min, which is more than 257, in [format]"],
        ),
        ("", "master = true", &["\"state.w.master_param\" is missing; to begin a master now, write zeros there"]),
        (
            "master = true",
            "",
            &[
                "\"state.w.master_param\" is not kept by the settings of all tensors, for which there is master = true in [format]",
            ],
        ),
        (
            "rounding = \"kahan\"",
            "",
            &[
                "\"state.h.kahan_comp\" is not kept by the settings of all tensors, for which there is rounding = \"kahan\"",
            ],
        ),
    ] {
        let desk = stepped(made);
        desk.text("optim.toml", &format!("rule = \"adam\"\nlr = 0.01\n[format]\n{then}\n"));
        desk.refuses(&resume(), 1, parts);
        let told = desk.run(&resume()).stderr;
        assert!(!told.contains(".scale"), "what is recast is told once: {told}");
    }
}

#[test]
fn parameters_that_were_of_another_format_are_refused() {
    let desk = stepped("");
    desk.formatted(
        "p",
        &[
            ("w", Dtype::F16, &[601], &[1.0; 601]),
            ("h", Dtype::F16, &[257], &[1.0; 257]),
            ("b", Dtype::F32, &[5], &[1.0; 5]),
        ],
    );
    desk.refuses(&resume(), 1, &["s: it was made with \"w\" as BF16, and in p it is F16; store it as BF16 to go on"]);
}

#[test]
fn what_no_slot_tells_of_is_told_when_it_changes() {
    let desk = stepped("rounding = \"stochastic\"\nseed = 1");
    desk.text(
        "optim.toml",
        "rule = \"adam\"\nlr = 0.01\n[format]\nseed = 2\ngrads = \"f32\"\nq8_zero = \"reference\"\n",
    );
    let told = desk.succeeds(&resume()).stderr;
    for part in [
        "note: [format] rounding was \"stochastic\" in s and is \"nearest\" in optim.toml (3 tensors)",
        "note: [format] seed was 1 in s and is 2 in optim.toml",
        "note: [format] grads was not there in s and is \"f32\" in optim.toml",
        "note: [format] q8_zero was \"guarded\" in s and is \"reference\" in optim.toml",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

/// Writes `s` again, with what `change` makes of each tensor; those it says `false` to are left out.
fn rewrite(desk: &Desk, keep_metadata: bool, change: impl Fn(&str, &mut Dtype, &mut Vec<usize>, &mut Vec<u8>) -> bool) {
    let bytes = desk.read("s");
    let file = SafeTensors::deserialize(&bytes).expect("a sound file");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
    let metadata = header.metadata().clone().filter(|_| keep_metadata);
    let mut tensors = Vec::new();
    for (name, view) in file.tensors() {
        let (mut dtype, mut shape, mut data) = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        if change(&name, &mut dtype, &mut shape, &mut data) {
            tensors.push((name, dtype, shape, data));
        }
    }
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).expect("a sound tensor"))
    });
    desk.bytes("s", &serialize(views, metadata).expect("a file"));
}

const Q8: &str = "state = \"q8\"\nq8_min = 0";

#[test]
fn codes_and_scales_that_do_not_fit_are_refused() {
    let desk = stepped(Q8);
    rewrite(&desk, true, |name, _, _, _| name != "state.w.exp_avg.scale");
    desk.refuses(&resume(), 1, &["s: \"state.w.exp_avg.scale\" is missing"]);
    let desk = stepped(Q8);
    rewrite(&desk, true, |name, _, shape, data| {
        if name == "state.w.exp_avg.scale" {
            (*shape, *data) = (vec![2], data[..8].to_vec());
        }
        true
    });
    desk.refuses(&resume(), 1, &["s: \"state.w.exp_avg.scale\" has shape [2], expected [3]"]);
    let desk = stepped(Q8);
    rewrite(&desk, true, |name, _, shape, data| {
        if name == "state.w.exp_avg" {
            (*shape, *data) = (vec![600], data[..600].to_vec());
        }
        true
    });
    desk.refuses(&resume(), 1, &["s: \"state.w.exp_avg\" has shape [600], expected [601]"]);
    let desk = stepped(Q8);
    rewrite(&desk, true, |name, dtype, _, data| {
        if name == "state.h.exp_avg_sq.scale" {
            (*dtype, *data) = (Dtype::BF16, encoded(Dtype::BF16, &decoded(Dtype::F32, data)));
        }
        true
    });
    desk.refuses(&resume(), 1, &["s: \"state.h.exp_avg_sq.scale\" is BF16, expected F32"]);
    let bad =
        [(-1.5f32, "-1.5"), (-0.0, "-0.0"), (f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")];
    for (scale, shown) in bad {
        let desk = stepped(Q8);
        rewrite(&desk, true, |name, _, _, data| {
            if name == "state.w.exp_avg_sq.scale" {
                data[4..8].copy_from_slice(&scale.to_le_bytes());
            }
            true
        });
        let told =
            format!("s: \"state.w.exp_avg_sq.scale\": the scale of block 1 is {shown}, expected a finite number >= 0");
        desk.refuses(&resume(), 1, &[&told, "go on from a file before it, with a scaler"]);
    }
}

/// A NaN in one gradient is one of a block: that run is told of it, and the next does not go on from it.
#[test]
fn state_that_a_nan_has_spread_in_is_refused_on_every_device() {
    for device in devices() {
        let desk = laid_out(Q8);
        let mut grads = spread(601, 3);
        grads[300] = f32::NAN;
        desk.formatted("g0", &[("w", Dtype::BF16, &[601], &grads)]);
        let line = apply(device);
        let told = desk.succeeds(&format!("{line} --params p --grads g0 --out-params out --out-state s")).stderr;
        assert!(told.contains("the gradients hold 1 NaN and 0 infinite values, first in \"w\" of g0"), "{told}");
        let parts = ["exp_avg", "exp_avg_sq"].map(|slot| {
            format!("\"state.w.{slot}.scale\": the scale of block 1 is NaN, expected a finite number >= 0")
        });
        let go_on = format!("{line} --params out --state s --grads g1 --out-params again --out-state t");
        desk.refuses(&go_on, 1, &[&parts[0], &parts[1]]);
        assert!(!desk.path("again").exists() && !desk.path("t").exists(), "nothing is written");
        // A scaler leaves the step out, and there is nothing to refuse.
        let text = String::from_utf8(desk.read("optim.toml")).expect("text");
        desk.text("optim.toml", &format!("{text}[scaler]\ninit_scale = 1.0\n"));
        desk.succeeds(&format!("{line} --params p --grads g0 g1 --out-params out --out-state s"));
        desk.succeeds(&go_on);
    }
}

#[test]
fn scales_of_what_has_none_are_refused() {
    let desk = stepped("");
    rewrite(&desk, true, |_, _, _, _| true);
    let bytes = desk.read("s");
    let file = SafeTensors::deserialize(&bytes).expect("a sound file");
    let (one, zero) = ([1; 12], [0; 4]);
    let view = |shape: Vec<usize>, data| TensorView::new(Dtype::F32, shape, data).expect("a tensor");
    let more =
        [("state.w.exp_avg.scale".to_string(), view(vec![3], &one)), ("state.scale".to_string(), view(vec![1], &zero))];
    desk.bytes("s", &serialize(file.tensors().into_iter().chain(more), None).expect("a file"));
    let parts = [
        "\"state.w.exp_avg.scale\" is not kept by the settings of all tensors",
        "\"state.scale\" is not of the form state.NAME.SLOT",
    ];
    desk.refuses(&resume(), 1, &parts);
}

#[test]
fn a_file_of_tensors_alone_is_taken_in_every_format() {
    for table in TABLES {
        let desk = stepped(table);
        desk.succeeds(&format!("{} --out-state ours", resume()));
        rewrite(&desk, false, |_, _, _, _| true);
        desk.succeeds(&format!("{} --out-state theirs", resume()));
        assert!(desk.read("ours") == desk.read("theirs"), "{table}");
    }
}

#[test]
fn state_of_a_tensor_without_a_gradient_is_kept_to_the_byte() {
    let desk = stepped("state = \"q8\"\nq8_min = 0\nrounding = \"kahan\"");
    desk.formatted("g1", &[("b", Dtype::F32, &[5], &[1.0; 5])]);
    desk.succeeds(&format!("{} --out-state kept", resume()));
    let (before, after) = (desk.read("s"), desk.read("kept"));
    let [before, after] = [&before, &after].map(|bytes| SafeTensors::deserialize(bytes).expect("a sound file"));
    for (name, view) in before.tensors() {
        let same = after.tensor(&name).expect(&name).data() == view.data();
        assert_eq!(same, !name.starts_with("state.b."), "{name}");
    }
}

#[test]
fn averages_are_written_in_the_formats_of_their_parameters() {
    let desk = laid_out("master = true");
    let text = String::from_utf8(desk.read("optim.toml")).expect("text");
    desk.text("optim.toml", &format!("{text}[ema]\ndecay = 0.5\n"));
    for device in devices() {
        let line = format!("{} --params p --grads g0 g1 --out-params out --out-state s --out-ema ema", apply(device));
        desk.succeeds(&line);
        let (params, ema, state) = (desk.read("p"), desk.read("ema"), desk.read("s"));
        assert_eq!(crate::desk::head(&ema), crate::desk::head(&params), "{device}");
        let [ema, state] = [&ema, &state].map(|bytes| SafeTensors::deserialize(bytes).expect("a sound file"));
        for (name, dtype) in [("w", Dtype::BF16), ("h", Dtype::F16), ("b", Dtype::F32)] {
            let kept = state.tensor(&format!("state.{name}.ema")).expect("an average");
            assert_eq!(kept.dtype(), Dtype::F32);
            let narrowed = encoded(dtype, &decoded(Dtype::F32, kept.data()));
            assert_eq!(ema.tensor(name).expect(name).data(), narrowed, "{device} {name}");
        }
    }
}
