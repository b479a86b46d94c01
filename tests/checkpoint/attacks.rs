//! Hostile and foreign files: each earns its message, and the optimizer is what it was. `tests/attacks/make.py` writes
//! them.

use std::collections::BTreeSet;
use std::fs;

use wgpu_optim::Adam;
use wgpu_optim::checkpoint::{Checkpoint, Error, Load};

use crate::run::{LOAD, OnCpu, OnGpu, Run, saved, small};
use crate::support::gpu;

/// Each file, what kind of error it is, and what is said of it.
const ATTACKS: [(&str, Kind, &str); 135] = [
    ("weights", Foreign, "its metadata have neither \"format\" nor \"param_groups\"; is it a file of weights?"),
    ("weights_of_torch", Foreign, "its format is \"pt\", expected \"wgpu-optim-checkpoint\""),
    ("pickle_of_torch", File, "the header's length is given as 578712552184433488 bytes"),
    ("state_of_apply", Foreign, "it is a state file of `wgpu-optim apply`"),
    ("version_3", Unsound, "the checkpoint is of version 3, this library reads versions 1 and 2"),
    ("version_missing", Unsound, "the metadata have no \"version\""),
    ("key_unknown", Unsound, "the metadata have the unknown key \"schedule\""),
    ("rule_missing", Unsound, "the metadata have no \"rule\""),
    ("rule_of_another", Mismatch, "it is of rule \"sofa\", the optimizer is of \"adam\""),
    ("groups_missing", Unsound, "the metadata have no \"groups\""),
    ("groups_no_json", Unsound, "\"groups\" of the metadata: expected value"),
    ("groups_no_list", Unsound, "\"groups\" of the metadata: invalid type: map, expected a sequence"),
    ("groups_nested_deep", Unsound, "\"groups\" of the metadata: "),
    ("group_key_unknown", Unsound, "\"groups\" of the metadata: unknown field `match`"),
    ("tensor_in_two_groups", Unsound, "\"w\" is in two groups"),
    ("tensor_twice_in_a_group", Unsound, "\"w\" is in two groups"),
    ("setting_missing", Unsound, "group 0: the setting \"beta1\" is missing"),
    ("setting_unknown", Unsound, "group 0: adam: there is no setting \"beta3\""),
    ("setting_out_of_range", Unsound, "group 0: adam: beta2 is 1.5, expected 0 <= beta2 < 1"),
    ("setting_of_another_kind", Unsound, "group 0: adam: lr is \"fast\", expected a number"),
    ("setting_null", Unsound, "group 0: lr is null, expected a number, a truth value or a word"),
    ("setting_nan", Unsound, "\"groups\" of the metadata: expected value"),
    ("setting_past_f64", Unsound, "\"groups\" of the metadata: number out of range"),
    ("setting_twice", Unsound, "\"groups\" of the metadata: the key \"lr\" is there twice"),
    ("steps_nan", Unsound, "\"steps\" of the metadata: expected value"),
    ("steps_negative", Unsound, "\"steps\" of the metadata: invalid value: integer `-1`, expected u64"),
    ("steps_fraction", Unsound, "\"steps\" of the metadata: invalid type: floating point `1.5`, expected u64"),
    ("steps_past_64_bits", Unsound, "\"steps\" of the metadata: invalid type: floating point"),
    ("steps_missing", Unsound, "the metadata have no step count of \"w\""),
    ("steps_of_nobody", Unsound, "no group has \"v\", which is counted or frozen"),
    ("steps_twice", Unsound, "\"steps\" of the metadata: the key \"w\" is there twice"),
    ("frozen_nobody", Unsound, "no group has \"v\", which is counted or frozen"),
    ("frozen_no_list", Unsound, "\"frozen\" of the metadata: "),
    ("extras_twice", Unsound, "\"extras\" of the metadata: the key \"a\" is there twice"),
    ("extras_nested_deep", Unsound, "\"extras\" of the metadata: recursion limit exceeded"),
    ("extras_not_asked_for", Mismatch, "its section \"a\" was not asked for"),
    ("chain_no_json", Unsound, "\"chain\" of the metadata: expected"),
    ("chain_part_unknown", Unsound, "\"chain\" of the metadata: unknown field `sofa`"),
    ("chain_setting_missing", Unsound, "\"chain\" of the metadata has no \"scaler.backoff_factor\""),
    ("chain_setting_unknown", Unsound, "\"chain\" of the metadata: unknown field `scale`"),
    ("chain_out_of_range", Unsound, "chain: scaler.growth_factor is 0.5, expected 1 <= scaler.growth_factor"),
    ("chain_of_two_clips", Unsound, "\"chain\" of the metadata: 2 of global_norm, group_norm, tensor_norm and value"),
    ("chain_setting_twice", Unsound, "\"chain\" of the metadata: duplicate field `accumulate`"),
    ("chain_of_another", Mismatch, "scaler of the chain is on in it and off in the optimizer"),
    ("scaler_missing", Unsound, "the metadata have no \"scaler\", and the chain has a scaler"),
    ("scaler_without_chain", Unsound, "the metadata have a \"scaler\", and the chain has no scaler"),
    ("scaler_negative", Unsound, "\"scaler\" of the metadata: the scale is -1, expected a finite f32 > 0"),
    ("scaler_past_f32", Unsound, "\"scaler\" of the metadata: the scale is 1"),
    ("scaler_of_more_than_f32", Unsound, "\"scaler\" of the metadata: the scale is 0.1, expected a finite f32"),
    ("scaler_nan", Unsound, "\"scaler\" of the metadata: expected value"),
    ("scaler_tracker_past_32_bits", Unsound, "\"scaler\" of the metadata: invalid value: integer `4294967296`"),
    ("scaler_skipped_missing", Unsound, "\"scaler\" of the metadata: missing field `skipped`"),
    ("recorded_negative", Unsound, "\"recorded\" of the metadata: invalid value: integer `-1`, expected u64"),
    ("recorded_past_64_bits", Unsound, "\"recorded\" of the metadata: invalid type: floating point"),
    ("histories_missing", Unsound, "the metadata have no \"histories\", and the chain has a scaler"),
    ("histories_without_one", Unsound, "\"histories\" of the metadata has no \"w\""),
    ("histories_of_nobody", Unsound, "no group has \"v\", which is in \"histories\""),
    ("histories_twice", Unsound, "\"histories\" of the metadata: the key \"w\" is there twice"),
    ("schedule_kind_unknown", Unsound, "\"groups\" of the metadata: unknown variant `sofa`"),
    ("schedule_argument_unknown", Unsound, "\"groups\" of the metadata: unknown field `t_max`"),
    ("schedule_out_of_range", Unsound, "group 0: schedule exponential: gamma is -1"),
    ("schedule_of_another", Mismatch, "in it and none in the optimizer"),
    ("key_without_form", Unsound, "\"w\" is not of the form state.NAME.SLOT, params.NAME or extra.NAME"),
    ("key_without_slot", Unsound, "\"state.w\" is not of the form"),
    ("state_of_nobody", Unsound, "\"state.v.exp_avg\": no group has \"v\""),
    ("params_of_nobody", Unsound, "\"params.v\": no group has \"v\""),
    ("lengths_differ", Unsound, "\"params.w\" has 3 elements, others of its tensor have 2"),
    ("slot_missing", Mismatch, "it has exp_avg of \"w\", which keeps exp_avg, exp_avg_sq"),
    ("slot_unknown", Mismatch, "it has exp_avg, exp_avg_sq, velocity of \"w\", which keeps exp_avg, exp_avg_sq"),
    ("no_state", Mismatch, "it has no slot of \"w\", which keeps exp_avg, exp_avg_sq"),
    ("halves", Unsound, "\"state.w.exp_avg\" is F16, expected F32"),
    ("formats_no_table", Unsound, "\"groups\" of the metadata: invalid length 0"),
    ("formats_in_version_1", Unsound, "group 0 has formats, which version 1 does not know"),
    ("formats_missing_in_version_2", Unsound, "group 0 has no formats, which version 2 has"),
    ("formats_key_unknown", Unsound, "\"groups\" of the metadata: unknown field `sofa`"),
    ("formats_key_missing", Unsound, "\"groups\" of the metadata: missing field `seed`"),
    ("formats_word_unknown", Unsound, "\"groups\" of the metadata: unknown variant `f8`"),
    ("formats_slot_word_unknown", Unsound, "\"groups\" of the metadata: unknown variant `q4`"),
    ("formats_slot_twice", Unsound, "\"groups\" of the metadata: the key \"exp_avg\" is there twice"),
    ("formats_key_twice", Unsound, "\"groups\" of the metadata: duplicate field `seed`"),
    ("formats_seed_negative", Unsound, "\"groups\" of the metadata: invalid value: integer `-1`, expected u64"),
    ("formats_seed_past_64_bits", Unsound, "\"groups\" of the metadata: invalid type: floating point"),
    ("formats_q8_min_fraction", Unsound, "\"groups\" of the metadata: invalid type: floating point `0.5`"),
    ("formats_master_of_f32", Unsound, "group 0: format: master is true, expected false where params are f32"),
    ("formats_kahan_beside_master", Unsound, "group 0: format: rounding is \"kahan\", expected no master beside it"),
    ("formats_of_another", Mismatch, "the format of group 0: state.exp_avg is q8 in it and f32 in the optimizer"),
    (
        "formats_of_other_slots",
        Unsound,
        "formats tell of the state [\"velocity\"], and the rule keeps [\"exp_avg\", \"exp_",
    ),
    ("codes_of_other_length", Unsound, "\"state.w.exp_avg_sq\" has 3 elements, others of its tensor have 2"),
    ("codes_not_named", Unsound, "\"state.w.exp_avg\" is U8, expected F32"),
    ("codes_named_and_halves", Unsound, "\"state.w.exp_avg_sq\" is BF16, expected U8"),
    ("codes_named_and_full", Unsound, "\"state.w.exp_avg\" is F32, expected U8"),
    ("scales_missing", Unsound, "\"state.w.exp_avg_sq\" has no scales of its blocks"),
    ("scales_too_many", Unsound, "\"scales.w.exp_avg\" has 2 elements, expected 1: one for each 256 of 2"),
    ("scales_of_no_block", Unsound, "\"scales.w.exp_avg\" has 0 elements, expected 1: one for each 256 of 2"),
    ("scales_of_halves", Unsound, "\"scales.w.exp_avg\" is F16, expected F32"),
    ("scales_of_nobody", Unsound, "\"scales.v.exp_avg\": no group has \"v\""),
    ("scales_of_no_codes", Unsound, "\"scales.w.exp_avg\": there are no codes of it"),
    ("scales_of_no_slot", Unsound, "\"scales.w.velocity\": there are no codes of it"),
    ("scales_without_slot", Unsound, "\"scales.w\" is not of the form"),
    ("halves_not_the_named", Unsound, "\"state.w.exp_avg\" is F32, expected BF16"),
    ("params_not_the_named", Unsound, "\"params.w\" is F16, expected BF16"),
    ("master_of_halves", Unsound, "\"state.w.master_param\" is F16, expected F32"),
    ("kahan_of_another_half", Unsound, "\"state.w.kahan_comp\" is BF16, expected F16"),
    ("kahan_not_named", Mismatch, "it has exp_avg, exp_avg_sq, kahan_comp of \"w\", which keeps exp_avg, exp_avg_sq"),
    ("halves_of_odd_bytes", File, "tensor \"params.w\" has shape [2] of BF16, which is 4 bytes, but bytes 12..15"),
    ("doubles", Unsound, "\"params.w\" is F64, expected F32, F16, BF16 or U8"),
    ("crc32_missing", Unsound, "the metadata have no \"crc32\""),
    ("crc32_too_short", Unsound, "crc32 holds 8 digits, expected 8 in lower case for the header and each tensor"),
    ("crc32_in_capitals", Unsound, "crc32 holds 24 digits, expected 8 in lower case for the header and each tensor"),
    ("crc32_of_another_file", Damaged, "the header is damaged: its crc32 is "),
    ("data_damaged", Damaged, "tensor \"state.w.exp_avg_sq\" is damaged: its crc32 is "),
    ("torch_groups_no_json", Unsound, "\"param_groups\" of the metadata: expected value"),
    ("torch_groups_of_none", Unsound, "\"param_groups\" are not those of Adam, AdamW, RMSprop"),
    ("torch_key_unknown", Unsound, "the metadata have the unknown key \"state\""),
    ("torch_class_unknown", Unsound, "PyTorch's NAdam has no counterpart here; Adam, AdamW, RMSprop have"),
    ("torch_setting_unknown", Unsound, "param_groups[0]: \"momentum_decay\" = 0.004 has no counterpart in adam"),
    ("torch_setting_missing", Unsound, "param_groups[0]: \"eps\" is missing"),
    ("torch_setting_of_another_kind", Unsound, "adam: amsgrad is 1, expected true or false"),
    ("torch_lr_is_a_tensor", Unsound, "param_groups[0]: lr is {\"tensor\":0.1}, expected a number"),
    ("torch_betas_of_three", Unsound, "param_groups[0]: betas are [0.9,0.99,0.999], expected two numbers"),
    ("torch_betas_out_of_range", Unsound, "param_groups[0]: adam: beta2 is 1, expected 0 <= beta2 < 1"),
    ("torch_ids_no_list", Unsound, "param_groups[0]: \"params\" is no list of IDs"),
    ("torch_id_twice", Unsound, "\"param_groups\" have the ID 0 twice"),
    ("torch_id_of_nobody", Unsound, "\"state.1.exp_avg\": no group has the ID 1"),
    ("torch_id_with_zeros", Unsound, "\"state.00.exp_avg\" is not of the form state.ID.SLOT"),
    ("torch_step_missing", Unsound, "state 0 has no \"step\""),
    ("torch_step_nan", Unsound, "\"state.0.step\" is NaN, expected a whole number from 0 to 2^24 - 1"),
    ("torch_step_fraction", Unsound, "\"state.0.step\" is 0.5, expected a whole number"),
    ("torch_step_too_large", Unsound, "\"state.0.step\" is 16777216, expected a whole number"),
    ("torch_step_of_two", Unsound, "\"state.0.step\" has shape [2], expected []"),
    ("torch_two_tensors", Mismatch, "its group 0 has 2 tensors, the optimizer's has 1"),
    ("torch_halves", Mismatch, "exp_avg of \"w\" is bf16 in it and f32 in the optimizer"),
    ("torch_codes", Unsound, "\"state.0.exp_avg\" is U8, expected F32, F16 or BF16"),
    ("torch_doubles", Unsound, "\"state.0.exp_avg\" is F64, expected F32, F16 or BF16"),
    ("torch_step_of_halves", Unsound, "\"state.0.step\" is BF16, expected F32"),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    File,
    Foreign,
    Unsound,
    Damaged,
    Mismatch,
}
use Kind::{Damaged, File, Foreign, Mismatch, Unsound};

fn kind(error: &Error) -> Kind {
    match error {
        Error::File(_) => File,
        Error::Foreign { .. } => Foreign,
        Error::Unsound { .. } => Unsound,
        Error::Damaged { .. } => Damaged,
        Error::Mismatch { .. } => Mismatch,
        other => panic!("{other:?}"),
    }
}

fn folder() -> String {
    format!("{}/tests/attacks", env!("CARGO_MANIFEST_DIR"))
}

const TENSORS: [(&str, usize, usize); 1] = [("w", 2, 0)];

/// What an optimizer says of a file, and that it is what it was.
fn refuses(run: &mut impl Run<Adam>, path: &str) -> Error {
    run.step(1);
    let before = run.world();
    let load = |checkpoint: Checkpoint| run.load_with(&checkpoint, Load::default(), false);
    let error = Checkpoint::open(path).and_then(load).expect_err(path);
    assert_eq!(run.world(), before, "{path} has changed something");
    error
}

fn refuses_all(run: &mut impl Run<Adam>) {
    for (name, expected, message) in ATTACKS {
        let path = format!("{}/checkpoint/{name}.safetensors", folder());
        let error = refuses(run, &path);
        let told = error.to_string();
        assert!(told.starts_with(&path) && told.contains(message), "{name}: {told}");
        assert_eq!(kind(&error), expected, "{name}: {told}");
    }
}

#[test]
fn every_attack_is_refused_by_name_and_nothing_is_touched() {
    refuses_all(&mut OnCpu::new(&[Adam::PYTORCH], &TENSORS));
    let Some(gpu) = gpu() else { return };
    refuses_all(&mut OnGpu::new(&gpu, &[Adam::PYTORCH], &TENSORS));
}

#[test]
fn every_attack_has_its_message_and_its_file() {
    let listed: BTreeSet<String> = ATTACKS.iter().map(|(name, ..)| format!("{name}.safetensors")).collect();
    assert_eq!(listed.len(), ATTACKS.len());
    let entries = fs::read_dir(format!("{}/checkpoint", folder())).unwrap();
    let found: BTreeSet<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, listed);
}

/// The messages are those of tests/cli/attacks.rs; here it counts that the library has a typed error for each.
#[test]
fn files_that_are_not_safetensors_are_no_checkpoints() {
    let mut run = OnCpu::new(&[Adam::PYTORCH], &TENSORS);
    let mut seen = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let error = refuses(&mut run, path.to_str().unwrap());
            assert!(matches!(error, Error::File(wgpu_optim::safetensors::Error::Unsound { .. })), "{error:?}");
            seen += 1;
        }
    }
    assert_eq!(seen, 42);
}

/// What an attack differs from is taken, so it is the attack that is refused.
#[test]
fn what_the_attacks_are_made_of_is_taken() {
    let path = format!("{}/checkpoint/data_damaged.safetensors", folder());
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() = 0;
    let mut run = OnCpu::new(&[Adam::PYTORCH], &TENSORS);
    run.step(1);
    run.load_with(&Checkpoint::from_bytes("whole", bytes).unwrap(), Load::default(), false).unwrap();
    assert_eq!(run.world().steps, [3]);
}

/// As many names as a header takes in a moment: each is looked at a few times, not each for each.
#[test]
fn a_header_of_very_many_tensors_is_refused_in_good_time() {
    let entries: Vec<String> = (0..200_000)
        .map(|i| format!("\"state.{i}.exp_avg\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}"))
        .collect();
    let names: Vec<String> = (0..200_000).map(|i| i.to_string()).collect();
    let steps = names.iter().map(|name| format!("\\\"{name}\\\":1")).collect::<Vec<_>>().join(",");
    let names = names.iter().map(|name| format!("\\\"{name}\\\"")).collect::<Vec<_>>().join(",");
    let metadata = format!(
        "\"crc32\":\"\",\"format\":\"wgpu-optim-checkpoint\",\"version\":\"1\",\"rule\":\"adam\",\"frozen\":\"[]\",\
         \"groups\":\"[{{\\\"settings\\\":{{}},\\\"tensors\\\":[{names}]}}]\",\"steps\":\"{{{steps}}}\",\"extras\":\"{{}}\""
    );
    let header = format!("{{\"__metadata__\":{{{metadata}}},{}}}", entries.join(","));
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    let start = std::time::Instant::now();
    let checkpoint = Checkpoint::from_bytes("many", bytes).unwrap();
    let mut run = small();
    let before = run.world();
    let error = run.load_with(&checkpoint, LOAD, false).unwrap_err();
    assert!(error.to_string().contains("the setting \"lr\" is missing"), "{error}");
    let error = OnCpu::new(&crate::run::rmsprop(), &crate::run::SMALL).load_with(&checkpoint, LOAD, false).unwrap_err();
    let Error::Mismatch { disagreements, .. } = error else { panic!("{error}") };
    assert!(disagreements.len() > 200_000);
    assert_eq!(run.world(), before);
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

/// A file that is changed in place while it is read, between its check and its loading, is an error with a name.
#[test]
fn a_file_that_is_cut_short_after_it_was_opened_is_an_error() {
    let (_folder, path) = crate::run::folder();
    let bytes = saved().1;
    fs::write(&path, &bytes).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes.len() as u64 - 10).unwrap();
    let mut run = small();
    let before = run.world();
    let error = run.load_with(&checkpoint, LOAD, false).unwrap_err();
    assert!(matches!(error, Error::File(wgpu_optim::safetensors::Error::Tensor { .. })), "{error:?}");
    assert_eq!(run.world(), before);
}
