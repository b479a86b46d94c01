//! Formats in a checkpoint: kept by name, brought back bit for bit, never cast unless that was asked for.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::{Value as Json, json};
use wgpu_optim::checkpoint::{Checkpoint, Disagreement as D, Error, Load, Save};
use wgpu_optim::format::{Format, Formats, Q8Zero, Rounding, StateFormat};
use wgpu_optim::{Adam, Chain, Ema, RmsProp, Rule};

use crate::formatted::{OnCpu, OnGpu, Run, TENSORS, World, read, start, stored};
use crate::going_on::small_gpu;
use crate::run::folder;
use crate::support::{Gpu, gpu};

const PLAIN: Formats = Formats {
    params: Format::F32,
    grads: Format::F32,
    master: false,
    state: StateFormat::F32,
    slots: BTreeMap::new(),
    rounding: Rounding::Nearest,
    seed: 0,
    q8_min: 4096,
    q8_zero: Q8Zero::Guarded,
};

/// Each format of each thing at least once, and each rounding.
fn cases() -> Vec<(&'static str, Formats)> {
    let halves = |params, grads| Formats { params, grads, ..PLAIN };
    let (f16, bf16) = (Format::F16, Format::Bf16);
    let by_chance =
        Formats { rounding: Rounding::Stochastic, seed: 0xfeed_0123_4567_89ab, ..halves(bf16, Format::F32) };
    let kahan = |params| Formats { rounding: Rounding::Kahan, ..halves(params, bf16) };
    let slots = [("exp_avg", StateFormat::Bf16), ("square_avg", StateFormat::Q8)];
    let slots = slots.map(|(slot, format)| (slot.to_string(), format));
    let slots = |known: &str| slots.iter().filter(|(slot, _)| slot == known).cloned().collect::<BTreeMap<_, _>>();
    vec![
        ("halves", halves(f16, bf16)),
        ("pure bf16", Formats { state: StateFormat::Bf16, ..halves(bf16, bf16) }),
        ("by chance", Formats { state: StateFormat::Bf16, ..by_chance.clone() }),
        ("kahan", Formats { state: StateFormat::Bf16, ..kahan(bf16) }),
        ("kahan of f16", kahan(f16)),
        ("master", Formats { master: true, state: StateFormat::Q8, ..by_chance }),
        ("codes", Formats { state: StateFormat::Q8, q8_zero: Q8Zero::Reference, ..PLAIN }),
        ("state alone", Formats { state: StateFormat::Bf16, ..PLAIN }),
        ("slot by slot", Formats { state: StateFormat::Q8, slots: slots("exp_avg"), q8_min: 8, ..halves(f16, f16) }),
    ]
}

/// Of two groups, the second one has short blocks of 8 bits.
fn groups<R: Rule>(settings: &[R; 2], formats: &Formats) -> [(R, Formats); 2] {
    let known = |formats: &Formats| Formats {
        slots: formats.slots.clone().into_iter().filter(|(slot, _)| R::SLOTS.contains(&slot.as_str())).collect(),
        ..formats.clone()
    };
    let small = Formats { q8_min: 1, ..formats.clone() };
    [(settings[0].clone(), known(formats)), (settings[1].clone(), known(&small))]
}

fn adam() -> [Adam; 2] {
    [Adam { amsgrad: true, lr: 3e-3, ..Adam::PYTORCH }, Adam { weight_decay: 1e-2, ..Adam::KERAS }]
}

fn rmsprop() -> [RmsProp; 2] {
    // Not centered: a mean square that was rounded can fall below the square of the mean, and its root is NaN then.
    [RmsProp { momentum: 0.9, ..RmsProp::PYTORCH }, RmsProp { lr: 2e-3, ..RmsProp::PYTORCH }]
}

fn chain() -> Chain {
    Chain { ema: Some(Ema { decay: 0.9, overwrite_every: 3 }), ..Chain::default() }
}

fn on_cpu<R: Rule>(settings: &[R; 2], formats: &Formats) -> OnCpu<R> {
    OnCpu::new(&groups(settings, formats), &TENSORS, &chain())
}

/// Save at step 3 and go on to step 6: in a fresh optimizer, and in one that has been elsewhere.
fn goes_on<S: Run>(case: &str, make: impl Fn() -> S) {
    let (_folder, path) = folder();
    let mut kept = make();
    (1..4).for_each(|seed| kept.step(seed));
    kept.save(&path).unwrap();
    let saved = kept.world();
    (4..7).for_each(|seed| kept.step(seed));
    let mut travelled = make();
    (20..22).for_each(|seed| travelled.step(seed));
    assert!(travelled.world() != saved, "{case}: this run is to be another one");
    for mut run in [make(), travelled] {
        let report = run.load(&path).unwrap();
        assert!(report.left.is_empty() && report.ignored.is_empty(), "{case}: {report:?}");
        assert!(run.world() == saved, "{case}: loaded");
        (4..7).for_each(|seed| run.step(seed));
        assert!(run.world() == kept.world(), "{case}: went on");
    }
}

#[test]
fn on_the_cpu_every_format_goes_on_to_the_bit() {
    for (case, formats) in cases() {
        goes_on(case, || on_cpu(&adam(), &formats));
        goes_on(case, || on_cpu(&rmsprop(), &formats));
    }
}

fn on_gpu<R: Rule>(gpu: &Gpu, settings: &[R; 2], formats: &Formats) -> OnGpu<R> {
    OnGpu::new(gpu, &groups(settings, formats), &TENSORS, &chain())
}

#[test]
fn on_the_gpu_every_format_goes_on_to_the_bit() {
    let Some(gpu) = gpu() else { return };
    for (case, formats) in cases() {
        goes_on(case, || on_gpu(&gpu, &adam(), &formats));
    }
    let (case, formats) = cases().swap_remove(5);
    goes_on(case, || on_gpu(&gpu, &rmsprop(), &formats));
}

/// Codes and scales of a tensor in several windows.
#[test]
fn on_a_gpu_that_cuts_tensors_into_windows_every_format_goes_on_to_the_bit() {
    let Some(gpu) = small_gpu() else { return };
    let tensors = [("w", 40_003, 0), ("e", 257, 1)];
    for (case, formats) in
        cases().into_iter().filter(|(case, _)| ["by chance", "master", "slot by slot"].contains(case))
    {
        let groups = groups(&adam(), &formats);
        goes_on(case, || OnGpu::new(&gpu, &groups, &tensors, &chain()));
        let (folder, path) = folder();
        let mut cut = OnGpu::new(&gpu, &groups, &tensors, &chain());
        cut.step(1);
        cut.save(&path).unwrap();
        // The same file from whom it does not cut.
        let mut whole = OnCpu::new(&groups, &tensors, &chain());
        whole.load(&path).unwrap();
        let again = folder.path().join("again.safetensors");
        whole.save(&again).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), std::fs::read(again).unwrap(), "{case}");
    }
}

/// What is loaded is what was saved, to the byte, in both directions; steps that follow are as near as their arithmetic is.
#[test]
fn cpu_and_gpu_go_on_from_each_other() {
    let Some(gpu) = gpu() else { return };
    for (case, formats) in cases() {
        crosses(case, || on_cpu(&adam(), &formats), || on_gpu(&gpu, &adam(), &formats));
        crosses(case, || on_gpu(&gpu, &adam(), &formats), || on_cpu(&adam(), &formats));
    }
}

fn crosses<A: Run, B: Run>(case: &str, from: impl Fn() -> A, to: impl Fn() -> B) {
    let (_folder, path) = folder();
    let (mut kept, mut other) = (from(), to());
    (1..4).for_each(|seed| kept.step(seed));
    (11..13).for_each(|seed| other.step(seed));
    kept.save(&path).unwrap();
    other.load(&path).unwrap();
    assert!(other.world() == kept.world(), "{case}: loaded");
    kept.step(4);
    other.step(4);
    let (ours, theirs) = (kept.world(), other.world());
    assert_eq!((&ours.steps, ours.recorded), (&theirs.steps, theirs.recorded));
    let (mut bytes, mut differ) = (0, 0);
    for (ours, theirs) in ours.state.iter().zip(&theirs.state).filter(|(ours, _)| ours.2.len() != 4 * len_of(&ours.0)) {
        bytes += ours.2.len();
        differ += ours.2.iter().zip(&theirs.2).filter(|(a, b)| a != b).count();
        // A code, or the last place of 16 bits, apart.
        let wide = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]).into();
        let halves = ours.2.len() == 2 * len_of(&ours.0);
        let apart = |at: usize| -> i32 {
            let pair: [i32; 2] = match halves {
                true => [wide(&ours.2, 2 * at), wide(&theirs.2, 2 * at)],
                false => [ours.2[at].into(), theirs.2[at].into()],
            };
            (pair[0] - pair[1]).abs()
        };
        let lost = ours.1 == "kahan_comp";
        let worst = (0..len_of(&ours.0)).map(apart).max().unwrap_or_default();
        assert!(lost || worst <= 1, "{case}: {} of {} is {worst} codes apart", ours.1, ours.0);
    }
    assert!(differ * 50 <= bytes, "{case}: {differ} of {bytes} bytes differ");
}

fn len_of(name: &str) -> usize {
    TENSORS.iter().find(|tensor| tensor.0 == name).unwrap().1
}

/// The comparison of [`goes_on`] would notice: another place in the schedule of chance is another run.
#[test]
fn chance_depends_on_where_the_run_is() {
    let (_, formats) = cases().into_iter().find(|(case, _)| *case == "by chance").unwrap();
    let (mut a, mut b) = (on_cpu(&adam(), &formats), on_cpu(&adam(), &formats));
    b.optimizer.set_recorded(1);
    a.step(1);
    b.step(1);
    assert!(a.world().params != b.world().params);
}

/// Type, shape and bytes of each array, by its key.
type Arrays = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// What another reader finds in the file.
fn file(path: &Path) -> (Arrays, BTreeMap<String, Json>) {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter();
    let tensors = tensors.map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())));
    let metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
    let parsed = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| json!(text));
    (tensors.collect(), metadata.iter().map(|(key, text)| (key.clone(), parsed(text))).collect())
}

#[test]
fn others_read_each_array_in_its_own_type_and_the_formats_by_name() {
    let slots = [("exp_avg".to_string(), StateFormat::Q8)].into();
    let first = Formats {
        params: Format::F16,
        grads: Format::Bf16,
        master: true,
        slots,
        rounding: Rounding::Stochastic,
        seed: u64::MAX,
        q8_min: 1000,
        ..PLAIN
    };
    let second = Formats { params: Format::Bf16, rounding: Rounding::Kahan, state: StateFormat::Bf16, ..PLAIN };
    let tensors = [("w", 1500, 0), ("b", 7, 0), ("e", 3, 1)];
    let settings = || Adam::PYTORCH;
    let mut run = OnCpu::new(&[(settings(), first), (settings(), second)], &tensors, &Chain::default());
    run.step(1);
    let (_folder, path) = folder();
    run.save(&path).unwrap();
    let (found, metadata) = file(&path);
    let types: BTreeMap<&str, (Dtype, usize)> = found.iter().map(|(key, of)| (key.as_str(), (of.0, of.1[0]))).collect();
    let expected = [
        ("params.b", (Dtype::F16, 7)),
        ("params.e", (Dtype::BF16, 3)),
        ("params.w", (Dtype::F16, 1500)),
        ("scales.w.exp_avg", (Dtype::F32, 6)),
        ("state.b.exp_avg", (Dtype::F32, 7)),
        ("state.b.exp_avg_sq", (Dtype::F32, 7)),
        ("state.b.master_param", (Dtype::F32, 7)),
        ("state.e.exp_avg", (Dtype::BF16, 3)),
        ("state.e.exp_avg_sq", (Dtype::BF16, 3)),
        ("state.e.kahan_comp", (Dtype::BF16, 3)),
        ("state.w.exp_avg", (Dtype::U8, 1500)),
        ("state.w.exp_avg_sq", (Dtype::F32, 1500)),
        ("state.w.master_param", (Dtype::F32, 1500)),
    ];
    assert_eq!(types, expected.into());
    assert_eq!(metadata["version"], json!(2));
    let formats = [
        json!({
            "params": "f16", "grads": "bf16", "master": true, "state": {"exp_avg": "q8", "exp_avg_sq": "f32"},
            "rounding": "stochastic", "seed": u64::MAX, "q8_min": 1000, "q8_zero": "guarded",
        }),
        json!({
            "params": "bf16", "grads": "f32", "master": false, "state": {"exp_avg": "bf16", "exp_avg_sq": "bf16"},
            "rounding": "kahan", "seed": 0, "q8_min": 4096, "q8_zero": "guarded",
        }),
    ];
    assert_eq!([0, 1].map(|group| metadata["groups"][group]["formats"].clone()), formats);
    // The master is what the copy was rounded from.
    let master = read(Format::F32, &found["state.w.master_param"].2);
    let copy = read(Format::F16, &found["params.w"].2);
    assert!(master.iter().zip(&copy).all(|(x, y)| (x - y).abs() <= 2f32.powi(-10) * x.abs() + 1e-7));
    let again: Vec<Formats> = Checkpoint::open(&path).unwrap().formats().to_vec();
    let rebuilt: Vec<_> = again.into_iter().map(|formats| (settings(), formats)).collect();
    let mut rebuilt = OnCpu::new(&rebuilt, &tensors, &Chain::default());
    rebuilt.load(&path).unwrap();
    assert_eq!(rebuilt.world(), run.world());
}

/// Files without formats are what they always were, and old ones are of `f32`.
#[test]
fn where_all_is_f32_the_file_says_nothing_of_formats() {
    let (_folder, path) = folder();
    let idle = Formats { seed: 5, q8_min: 1, ..PLAIN };
    on_cpu(&adam(), &idle).save(&path).unwrap();
    let (_, metadata) = file(&path);
    assert_eq!(metadata["version"], json!(1));
    assert_eq!(metadata["groups"][0].as_object().unwrap().keys().collect::<Vec<_>>(), ["settings", "tensors"]);
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert!(checkpoint.formats().is_empty());
    on_cpu(&adam(), &PLAIN).load(&path).unwrap();
}

/// What a run says of a file, and that it is what it was.
fn refused(run: &mut impl Run, path: &Path, load: Load<'_>, partial: bool) -> (Vec<D>, String) {
    run.step(9);
    let before = run.world();
    let error = run.load_with(&Checkpoint::open(path).unwrap(), load, partial).unwrap_err();
    assert!(run.world() == before, "a refused file changed something: {error}");
    let message = error.to_string();
    let Error::Mismatch { disagreements, .. } = error else { panic!("{message}") };
    (disagreements, message)
}

fn format(group: usize, setting: &str, file: &str, optimizer: &str) -> D {
    D::Format { group, setting: setting.into(), file: file.into(), optimizer: optimizer.into() }
}

fn in_another(name: &str, what: &str, file: &'static str, optimizer: &'static str) -> D {
    D::Stored { name: name.into(), what: what.into(), file, optimizer }
}

const PARAMS: Load<'static> = Load { params: true, extras: &[], retune: false, cast: &[] };

/// One group of one tensor.
fn single(formats: Formats) -> OnCpu<Adam> {
    OnCpu::new(&[(Adam::PYTORCH, formats)], &[("w", 700, 0)], &Chain::default())
}

fn codes() -> Formats {
    Formats { params: Format::Bf16, state: StateFormat::Q8, q8_min: 1, ..PLAIN }
}

fn saved(formats: Formats) -> (tempfile::TempDir, std::path::PathBuf, World) {
    let (folder, path) = folder();
    let mut run = single(formats);
    (1..4).for_each(|seed| run.step(seed));
    run.save(&path).unwrap();
    (folder, path, run.world())
}

#[test]
fn every_format_that_disagrees_is_listed_and_nothing_is_cast() {
    let (_folder, path, _) = saved(codes());
    let other = Formats { state: StateFormat::Bf16, grads: Format::F16, ..PLAIN };
    for (retune, cast) in [(false, [].as_slice()), (true, &["params", "exp_avg", "exp_avg_sq"])] {
        let load = Load { retune, cast, ..PARAMS };
        let (told, message) = refused(&mut single(other.clone()), &path, load, false);
        let expected = [
            format(0, "params", "bf16", "f32"),
            format(0, "grads", "f32", "f16"),
            format(0, "state.exp_avg", "q8", "bf16"),
            format(0, "state.exp_avg_sq", "q8", "bf16"),
            in_another("w", "exp_avg", "q8", "bf16"),
            in_another("w", "exp_avg_sq", "q8", "bf16"),
            in_another("w", "params", "bf16", "f32"),
        ];
        assert_eq!(told, expected);
        for line in [
            "\n  the format of group 0: grads is f32 in it and f16 in the optimizer",
            "\n  exp_avg of \"w\" is q8 in it and bf16 in the optimizer; load_partial casts what it is told to",
        ] {
            assert!(message.contains(line), "{line:?} is not in {message:?}");
        }
    }
    let numbers = Formats { q8_zero: Q8Zero::Reference, q8_min: 2, ..codes() };
    let (told, _) = refused(&mut single(numbers), &path, PARAMS, false);
    assert_eq!(told, [format(0, "q8_min", "1", "2"), format(0, "q8_zero", "guarded", "reference")]);
}

#[test]
fn a_file_of_f32_is_no_file_of_another_format() {
    let (_folder, path, _) = saved(PLAIN);
    let master = Formats { params: Format::Bf16, master: true, ..PLAIN };
    let (told, _) = refused(&mut single(master), &path, PARAMS, false);
    let file = vec!["exp_avg".to_string(), "exp_avg_sq".to_string()];
    let slots = D::Slots { name: "w".into(), file, optimizer: vec!["exp_avg", "exp_avg_sq", "master_param"] };
    let expected = [
        format(0, "params", "f32", "bf16"),
        format(0, "master", "false", "true"),
        slots,
        in_another("w", "params", "f32", "bf16"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_part_is_cast_only_where_that_is_named() {
    let (_folder, path, _) = saved(codes());
    let load = Load { cast: &["exp_avg"], ..PARAMS };
    let (told, _) = refused(&mut single(PLAIN), &path, load, true);
    assert_eq!(told, [in_another("w", "exp_avg_sq", "q8", "f32"), in_another("w", "params", "bf16", "f32")]);
}

/// Largest difference, in units of the largest number.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    let most = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |most, x| most.max(x));
    let size = most(&mut b.iter().map(|x| x.abs()));
    assert!(a.len() == b.len() && size > 0.0);
    most(&mut a.iter().zip(b).map(|(a, b)| (a - b).abs())) / size
}

const ALL: Load<'static> =
    Load { params: true, extras: &[], retune: false, cast: &["exp_avg", "exp_avg_sq", "params"] };

#[test]
fn what_is_named_is_cast_to_the_nearest_and_told() {
    let (_folder, path, file) = saved(PLAIN);
    let of = |world: &World, slot: &str| world.state.iter().find(|(_, known, ..)| *known == slot).unwrap().clone();
    let mut run = single(codes());
    run.step(9);
    let report = run.load_with(&Checkpoint::open(&path).unwrap(), ALL, true).unwrap();
    assert_eq!(report.loaded, ["state.w.exp_avg", "state.w.exp_avg_sq", "params.w"]);
    let state_of = |slot| format(0, slot, "f32", "q8");
    let differences = [format(0, "params", "f32", "bf16"), state_of("state.exp_avg"), state_of("state.exp_avg_sq")];
    assert_eq!(report.differences, differences);
    let world = run.world();
    assert_eq!(world.steps, [3]);
    assert_eq!(world.params[0], stored(Format::Bf16, &read(Format::F32, &file.params[0])));
    for slot in ["exp_avg", "exp_avg_sq"] {
        let exact = read(Format::F32, &of(&file, slot).2);
        let cast = run.optimizer.read_state("w", slot).unwrap();
        let worst = apart(&cast, &exact);
        assert!(worst > 0.0 && worst < 0.02, "{slot}: {worst}");
        let scales = read(Format::F32, &of(&world, slot).3);
        let largest = exact.chunks(256).map(|block| block.iter().fold(0f32, |most, x| most.max(x.abs())));
        assert_eq!(scales, largest.collect::<Vec<_>>());
    }
    // And back, exactly.
    run.save(&path).unwrap();
    let mut wide = single(PLAIN);
    wide.load_with(&Checkpoint::open(&path).unwrap(), ALL, true).unwrap();
    for slot in ["exp_avg", "exp_avg_sq"] {
        assert_eq!(wide.optimizer.state("w", slot).unwrap(), run.optimizer.read_state("w", slot).unwrap());
    }
    assert_eq!(read(Format::F32, &wide.world().params[0]), read(Format::Bf16, &world.params[0]));
}

/// What is kept beside parameters would bring the old ones back at the next step.
#[test]
fn parameters_of_another_run_have_no_old_master_and_no_old_losses() {
    let (_folder, path, file) = saved(PLAIN);
    let exact = read(Format::F32, &file.params[0]);
    let master = |params| Formats { params, master: true, ..PLAIN };
    let mut run = single(master(Format::F16));
    run.step(9);
    run.load_with(&Checkpoint::open(&path).unwrap(), ALL, true).unwrap();
    assert_eq!(run.optimizer.state("w", "master_param").unwrap(), exact);
    // From parameters that are a copy already, a master starts when it is next stepped.
    let halves = Formats { params: Format::Bf16, ..PLAIN };
    let (_folder, path, file) = saved(halves.clone());
    let mut run = single(master(Format::Bf16));
    run.step(9);
    let report = run.load_with(&Checkpoint::open(&path).unwrap(), PARAMS, true).unwrap();
    assert!(report.left.is_empty(), "{report:?}");
    assert_eq!(run.optimizer.state("w", "master_param").unwrap(), [0.0; 700]);
    run.step(4);
    let mut kept = single(halves);
    kept.load(&path).unwrap();
    kept.step(4);
    assert_eq!(run.world().params, kept.world().params);
    assert!(run.world().params != file.params);
    let mut kahan = single(Formats { params: Format::Bf16, rounding: Rounding::Kahan, ..PLAIN });
    (9..12).for_each(|seed| kahan.step(seed));
    kahan.load_with(&Checkpoint::open(&path).unwrap(), PARAMS, true).unwrap();
    assert_eq!(kahan.optimizer.read_state("w", "kahan_comp").unwrap(), [0.0; 700]);
}

#[test]
fn slices_in_another_format_are_refused_and_nothing_is_written() {
    let (_folder, path) = folder();
    let run = single(codes());
    let params = start("w", 700);
    let slices = [params.as_slice()];
    let save = Save { params: Some(slices.as_slice()), ..Default::default() };
    let error = run.optimizer.save(&path, &save).unwrap_err().to_string();
    assert_eq!(error, "parameters of \"w\": a slice in f32 was given, its group has bf16");
    assert!(!path.exists());
    let (_folder, path, _) = saved(codes());
    let mut other = single(codes());
    let mut params = vec![0.5; 700];
    let mut slices: [&mut [f32]; 1] = [&mut params];
    let load = Load { params: Some(slices.as_mut_slice()), ..Default::default() };
    let error = other.optimizer.load(&Checkpoint::open(&path).unwrap(), load).unwrap_err().to_string();
    assert_eq!(error, "parameters of \"w\": a slice in f32 was given, its group has bf16");
    assert_eq!((params, other.world()), (vec![0.5; 700], single(codes()).world()));
}

/// Each file, and what an optimizer with codes says of it; nothing of those that are sound.
const ATTACKS: [(&str, &str); 11] = [
    ("sound", ""),
    ("scale_nan", "\"scales.w.exp_avg_sq\": the scale of block 0 is NaN, expected a finite number >= 0; "),
    ("scale_negative", "\"scales.w.exp_avg\": the scale of block 0 is -1.0, expected a finite number >= 0; "),
    ("scale_minus_zero", "\"scales.w.exp_avg\": the scale of block 0 is -0.0, expected a finite number >= 0; "),
    ("scale_infinite", "\"scales.w.exp_avg\": the scale of block 0 is inf, expected a finite number >= 0; "),
    ("scale_damaged", "tensor \"scales.w.exp_avg_sq\" is damaged: its crc32 is "),
    ("codes_of_one", "\"w\" has 1 elements in it and 2 in the optimizer"),
    ("codes_past_a_block", "\"w\" has 257 elements in it and 2 in the optimizer"),
    ("slot_missing", "it has exp_avg of \"w\", which keeps exp_avg, exp_avg_sq"),
    ("zero_of_another", "the format of group 0: q8_zero is reference in it and guarded in the optimizer"),
    ("state_of_f32", "exp_avg_sq of \"w\" is f32 in it and q8 in the optimizer; load_partial casts what it is told to"),
];

/// `tests/attacks/make.py` writes the files.
fn refuses_attacks<S: Run>(make: impl Fn() -> S) {
    let attacks = format!("{}/tests/attacks/formats", env!("CARGO_MANIFEST_DIR"));
    assert_eq!(std::fs::read_dir(&attacks).unwrap().count(), ATTACKS.len());
    for (name, message) in ATTACKS {
        let path = format!("{attacks}/{name}.safetensors");
        let mut run = make();
        run.step(1);
        let before = run.world();
        let loaded = Checkpoint::open(&path).and_then(|file| run.load_with(&file, Load::default(), false));
        match loaded {
            Ok(_) => assert!(message.is_empty() && run.world() != before, "{name} is taken"),
            Err(error) => {
                let told = error.to_string();
                assert!(!message.is_empty() && told.starts_with(&path) && told.contains(message), "{name}: {told}");
                assert!(run.world() == before, "{name} has changed something");
            }
        }
    }
}

/// What [`refuses_attacks`] is told by.
fn attacked() -> (Formats, [(&'static str, usize, usize); 1]) {
    (Formats { state: StateFormat::Q8, q8_min: 1, ..PLAIN }, [("w", 2, 0)])
}

#[test]
fn every_attack_on_codes_is_refused_by_name_and_nothing_is_touched() {
    let (formats, tensors) = attacked();
    let groups = [(Adam::PYTORCH, formats)];
    refuses_attacks(|| OnCpu::new(&groups, &tensors, &Chain::default()));
    let Some(gpu) = gpu() else { return };
    refuses_attacks(|| OnGpu::new(&gpu, &groups, &tensors, &Chain::default()));
}

/// Every bit of a file with codes, scales and halves, none left out.
#[test]
fn every_single_bit_of_a_file_with_formats_counts() {
    let small = || {
        let master = Formats { params: Format::Bf16, master: true, state: StateFormat::Q8, q8_min: 1, ..PLAIN };
        OnCpu::new(&[(Adam::PYTORCH, master)], &[("w", 5, 0)], &Chain::default())
    };
    let (_folder, path) = folder();
    let mut run = small();
    run.step(1);
    run.save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let mut other = small();
    other.step(7);
    let before = other.world();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let loaded = Checkpoint::from_bytes("changed", changed);
        let loaded = loaded.and_then(|checkpoint| other.load_with(&checkpoint, PARAMS, false));
        assert!(loaded.is_err(), "bit {bit} can be flipped");
        assert!(other.world() == before, "bit {bit} was refused and has changed something");
    }
    other.load_with(&Checkpoint::from_bytes("whole", bytes).unwrap(), PARAMS, false).unwrap();
    assert_eq!(other.world(), run.world());
}
