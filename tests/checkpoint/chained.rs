//! A loop that is saved in its middle: scaled and skipping, clipped, scheduled, averaged, half of its micro-batches summed up.

use serde_json::Value as Json;
use wgpu_optim::checkpoint::{Checkpoint, Disagreement as D, Error, Extras, Load};
use wgpu_optim::schedule::{Exponential, OneCycle};
use wgpu_optim::{Adam, Chain, Clamp, Clip, ClipForm, Ema, Norm, Over, RmsProp, Rule, Scaler, Schedule};

use crate::going_on::small_gpu;
use crate::run::{OnCpu, OnGpu, Run, SMALL, TENSORS, World, adam, folder, rmsprop, values};
use crate::support::gpu;

/// Everything that a chain can have, but for zeroed gradients, which the CPU refuses.
fn chain() -> Chain {
    Chain {
        clip: Some(Clip::global_norm(0.7)),
        scaler: Some(Scaler { init_scale: 1024.0, growth_interval: 2, growth_factor: 1.5, ..Scaler::PYTORCH }),
        clamp: Some(Clamp { min: -0.75, max: 0.8 }),
        ema: Some(Ema { decay: 0.9, overwrite_every: 3 }),
        accumulate: true,
        zero_grads: false,
    }
}

fn schedule() -> Schedule {
    OneCycle { base_momentum: 0.7, ..OneCycle::new(0.03, 11) }.into()
}

/// Scaled gradients, and where wanted an infinity among those of the last tensor.
fn grads(lens: &[usize], seed: u64, infinite: bool) -> Vec<Vec<f32>> {
    let scaled = |(i, &len): (usize, &usize)| values(seed * 16 + i as u64, len).iter().map(|g| g * 1024.0).collect();
    let mut grads: Vec<Vec<f32>> = lens.iter().enumerate().map(scaled).collect();
    if infinite {
        grads[0][0] = f32::INFINITY;
    }
    grads
}

fn micro<R: Rule>(run: &mut impl Run<R>, seed: u64, infinite: bool) {
    let lens: Vec<usize> = run.world().params.iter().map(Vec::len).collect();
    run.accumulate(&grads(&lens, seed, infinite));
}

fn step<R: Rule>(run: &mut impl Run<R>, seed: u64, infinite: bool) {
    micro(run, 2 * seed, infinite);
    micro(run, 2 * seed + 1, false);
    run.step_summed();
}

/// Skips a step, with one tensor frozen and another one frozen for that step alone; ends in the middle of a step.
fn before<R: Rule>(run: &mut impl Run<R>) {
    run.set_schedule(0, Some(schedule()));
    step(run, 1, false);
    run.freeze("state.emb");
    run.freeze("fc1.bias");
    step(run, 2, true);
    run.thaw("fc1.bias");
    step(run, 3, false);
    step(run, 4, false);
    micro(run, 10, false);
}

fn after<R: Rule>(run: &mut impl Run<R>) {
    micro(run, 11, false);
    run.step_summed();
    run.thaw("state.emb");
    step(run, 6, true);
    step(run, 7, false);
    run.freeze("scale");
    step(run, 8, false);
}

/// Before anything of the file is in it.
fn fresh<R: Rule, S: Run<R>>(make: impl Fn() -> S) -> S {
    let mut run = make();
    run.set_schedule(0, Some(schedule()));
    run
}

fn goes_on<R: Rule, S: Run<R>>(make: impl Fn() -> S) {
    let (_folder, path) = folder();
    let mut kept = make();
    before(&mut kept);
    kept.save(&path, true, Extras::default()).unwrap();
    let saved = kept.world();
    let (_, tracker, skipped, recorded) = saved.running;
    assert_eq!((tracker, skipped, recorded), (0, 1, 4));
    assert_eq!(f32::from_bits(saved.running.0), 1024.0 * 0.5 * 1.5);
    // fc1.weight, state.emb, fc1.bias, scale
    assert_eq!(saved.steps, [3, 1, 3, 3]);
    let half = saved.state.iter().find(|(name, slot, _)| name == "fc1.weight" && *slot == "accumulated_grad").unwrap();
    assert!(half.2.iter().any(|&x| x != 0), "nothing was summed up");

    let mut strict = fresh(&make);
    let report = strict.load(&path).unwrap();
    assert!(report.left.is_empty() && report.ignored.is_empty(), "{report:?}");
    assert!(report.loaded.contains(&"scaler".into()) && report.loaded.contains(&"state.scale.ema".into()));
    let mut retuned = make();
    let load = Load { params: true, retune: true, ..Default::default() };
    retuned.load_with(&Checkpoint::open(&path).unwrap(), load, false).unwrap();
    // One that has been elsewhere before: nothing of that is left.
    let mut travelled = fresh(&make);
    step(&mut travelled, 20, false);
    step(&mut travelled, 21, true);
    micro(&mut travelled, 50, true);
    travelled.load(&path).unwrap();
    after(&mut kept);
    for mut run in [strict, retuned, travelled] {
        assert_eq!(run.world(), saved, "loaded");
        after(&mut run);
        assert_eq!(run.world(), kept.world(), "went on");
    }
    let end = kept.world();
    assert_eq!((end.running.2, end.running.3), (2, 8));
    assert_eq!(end.steps, [6, 3, 6, 5]);
}

#[test]
fn on_the_cpu_it_goes_on_to_the_bit() {
    goes_on(|| OnCpu::chained(&adam(), &TENSORS, &chain()));
    goes_on(|| OnCpu::chained(&rmsprop(), &TENSORS, &chain()));
}

#[test]
fn on_the_gpu_it_goes_on_to_the_bit() {
    let Some(gpu) = gpu() else { return };
    goes_on(|| OnGpu::chained(&gpu, &adam(), &TENSORS, &chain()));
    goes_on(|| OnGpu::chained(&gpu, &rmsprop(), &TENSORS, &Chain { zero_grads: true, ..chain() }));
}

#[test]
fn on_a_gpu_that_cuts_tensors_into_windows_it_goes_on_to_the_bit() {
    let Some(gpu) = small_gpu() else { return };
    let chain = Chain { clip: Some(Clip::tensor_norm(0.1)), ..chain() };
    goes_on(|| OnGpu::chained(&gpu, &adam(), &TENSORS, &chain));
}

/// Both ways, and then as far apart as their arithmetic is.
#[test]
fn cpu_and_gpu_go_on_from_each_other() {
    let Some(gpu) = gpu() else { return };
    let device = || OnGpu::chained(&gpu, &adam(), &TENSORS, &Chain { zero_grads: true, ..chain() });
    crosses(|| OnCpu::chained(&adam(), &TENSORS, &chain()), device);
    crosses(|| OnCpu::chained(&rmsprop(), &TENSORS, &chain()), || OnGpu::chained(&gpu, &rmsprop(), &TENSORS, &chain()));
    crosses(device, || OnCpu::chained(&adam(), &TENSORS, &chain()));
}

fn crosses<R: Rule, A: Run<R>, B: Run<R>>(from: impl Fn() -> A, to: impl Fn() -> B) {
    let (folder, path) = folder();
    let mut kept = from();
    before(&mut kept);
    kept.save(&path, true, Extras::default()).unwrap();
    let mut other = fresh(to);
    other.load(&path).unwrap();
    let (saved, loaded) = (kept.world(), other.world());
    assert_eq!((&loaded.params, &loaded.state), (&saved.params, &saved.state));
    assert_eq!((&loaded.steps, loaded.running), (&saved.steps, saved.running));
    // What is loaded is what is saved, but for what becomes of gradients after a step.
    let again = folder.path().join("again.safetensors");
    other.save(&again, true, Extras::default()).unwrap();
    assert_eq!(Checkpoint::open(&again).unwrap().schedules(), [Some(schedule()), None]);
    after(&mut kept);
    after(&mut other);
    let (ours, theirs) = (kept.world(), other.world());
    assert_eq!((&theirs.steps, theirs.running), (&ours.steps, ours.running));
    close(&saved, &ours, &theirs);
}

/// Within 1e-5 of the furthest that a value of its array has gone since.
fn close(start: &World, ours: &World, theirs: &World) {
    let arrays = |world: &World| -> Vec<Vec<f32>> {
        let state = world.state.iter().map(|(_, _, values)| values);
        world.params.iter().chain(state).map(|bits| bits.iter().map(|&x| f32::from_bits(x)).collect()).collect()
    };
    for (number, ((start, a), b)) in arrays(start).iter().zip(arrays(ours)).zip(arrays(theirs)).enumerate() {
        let moved = a.iter().zip(start).map(|(a, start)| (a - start).abs()).fold(0.0, f32::max);
        for (i, (a, b)) in a.iter().zip(&b).enumerate() {
            let allowed = 1e-5 * moved + 6e-7 * a.abs() + 1e-37;
            assert!((a - b).abs() <= allowed, "array {number}[{i}]: {a:e} and {b:e}, {allowed:e} is allowed");
        }
    }
}

/// A file of [`SMALL`] after a loop with everything.
fn saved() -> Vec<u8> {
    let mut run = OnCpu::chained(&adam(), &SMALL, &chain());
    run.set_schedule(0, Some(schedule()));
    step(&mut run, 1, false);
    step(&mut run, 2, true);
    step(&mut run, 3, false);
    let (_folder, path) = folder();
    run.save(&path, true, Extras::default()).unwrap();
    std::fs::read(path).unwrap()
}

const PARAMS: Load<'static> = Load { params: true, extras: &[], retune: false, cast: &[] };

/// What is said of the file of [`saved`], and that nothing is touched.
fn refused(run: &mut impl Run<Adam>, load: Load<'_>) -> (Vec<D>, String) {
    let before = run.world();
    let error = run.load_with(&Checkpoint::from_bytes("run", saved()).unwrap(), load, false).unwrap_err();
    assert_eq!(run.world(), before);
    let message = error.to_string();
    let Error::Mismatch { disagreements, .. } = error else { panic!("{message}") };
    (disagreements, message)
}

fn of_chain(setting: &str, file: &str, optimizer: &str) -> D {
    D::Chain { setting: setting.into(), file: file.into(), optimizer: optimizer.into() }
}

#[test]
fn what_disagrees_in_the_loop_is_listed() {
    let other = Chain {
        clip: Some(Clip { max: 2.0, over: Over::All, norm: Norm::Inf, form: ClipForm::PyTorch }),
        scaler: Some(Scaler { growth_interval: 3, growth_factor: 1.5, ..Scaler::PYTORCH }),
        clamp: None,
        ema: Some(Ema { decay: 0.9, overwrite_every: 4 }),
        ..chain()
    };
    let mut run = OnCpu::chained(&adam(), &SMALL, &other);
    run.set_schedule(1, Some(Exponential { gamma: 0.5 }.into()));
    let (told, message) = refused(&mut run, PARAMS);
    let settings = [
        of_chain("clamp", "on", "off"),
        of_chain("clip.global_norm", "0.7", "2.0"),
        of_chain("clip.norm", "\"l2\"", "\"inf\""),
        of_chain("ema.overwrite_every", "3", "4"),
        of_chain("scaler.growth_interval", "2", "3"),
        of_chain("scaler.init_scale", "1024.0", "65536.0"),
    ];
    assert_eq!(told[2..], settings);
    let one_cycle = serde_json::to_string(&schedule()).unwrap();
    let exponential = "{\"kind\":\"exponential\",\"gamma\":0.5}";
    let schedules = [(0, one_cycle.as_str(), "none"), (1, "none", exponential)];
    let schedules = schedules.map(|(group, a, b)| D::Schedule { group, file: a.into(), optimizer: b.into() });
    assert_eq!(told[..2], schedules);
    for line in [
        "\n  clamp of the chain is on in it and off in the optimizer\n",
        "\n  scaler.growth_interval of the chain is 2 in it and 3 in the optimizer\n",
        "\n  the schedule of group 1 is none in it and {\"kind\":\"exponential\",\"gamma\":0.5} in the optimizer\n",
    ] {
        assert!(message.contains(line), "{line:?} is not in {message:?}");
    }

    // The numbers of all this may be taken from the file.
    let retune = || Load { params: true, retune: true, ..Default::default() };
    run.load_with(&Checkpoint::from_bytes("run", saved()).unwrap(), retune(), false).unwrap();
    assert_eq!((run.optimizer.chain(), run.optimizer.schedule(0).unwrap()), (&chain(), Some(&schedule())));
    assert_eq!(run.optimizer.schedule(1).unwrap(), None);
    // What needs other state or other bookkeeping may not.
    let structure = [of_chain("ema", "on", "off"), of_chain("scaler", "on", "off")];
    let mut run = OnCpu::chained(&adam(), &SMALL, &Chain { ema: None, scaler: None, ..chain() });
    let (told, _) = refused(&mut run, retune());
    assert_eq!(told[..2], structure);
    assert!(told[2..].iter().all(|d| matches!(d, D::Slots { .. })) && told.len() == 5, "{told:?}");
    if let Some(gpu) = gpu() {
        let plain = Chain { accumulate: true, ..Chain::default() };
        let (told, _) = refused(&mut OnGpu::chained(&gpu, &adam(), &SMALL, &plain), retune());
        assert_eq!(told[2], of_chain("clip", "by norm", "off"));
    }
}

#[test]
fn a_part_is_taken_where_it_is_kept_and_told_where_not() {
    let checkpoint = Checkpoint::from_bytes("run", saved()).unwrap();
    let ours = Chain { scaler: chain().scaler, clip: Some(Clip::global_norm(3.0)), ..Chain::default() };
    let mut run = OnCpu::chained(&adam(), &SMALL, &ours);
    let report = run.load_with(&checkpoint, PARAMS, true).unwrap();
    assert!(report.loaded.contains(&"scaler".into()), "{report:?}");
    assert_eq!(report.ignored.len(), 6, "{report:?}");
    assert!(report.differences.contains(&of_chain("clip.global_norm", "0.7", "3.0")), "{report:?}");
    assert_eq!(run.optimizer.chain(), &ours);
    assert_eq!((run.optimizer.control().skipped, run.optimizer.recorded()), (1, 3));
    let mut plain = OnCpu::new(&adam(), &SMALL);
    let report = plain.load_with(&checkpoint, PARAMS, true).unwrap();
    assert!(report.ignored.contains(&"scaler".into()), "{report:?}");
    assert_eq!(plain.world().steps, [2, 2, 2]);
    // The other way round.
    let (_folder, path) = folder();
    plain.save(&path, true, Extras::default()).unwrap();
    let report = run.load_with(&Checkpoint::open(&path).unwrap(), PARAMS, true).unwrap();
    assert_eq!(report.left, ["scaler"]);
    assert_eq!(run.optimizer.control().skipped, 1);
}

/// The file, with its header's text changed and its checksums left out of account.
fn pairs(bytes: &[u8]) -> Json {
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Json = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    header["__metadata__"].clone()
}

#[test]
fn the_file_says_in_words_what_the_loop_is_in_the_middle_of() {
    let metadata = pairs(&saved());
    let value = |key: &str| serde_json::from_str::<Json>(metadata[key].as_str().unwrap()).unwrap();
    assert_eq!(value("recorded"), 3);
    assert_eq!(value("scaler"), serde_json::json!({"scale": 512.0, "growth_tracker": 1, "skipped": 1}));
    assert_eq!(value("steps"), serde_json::json!({"w": 2, "b": 2, "c": 2}));
    assert_eq!(value("histories"), serde_json::json!({"w": 0, "b": 0, "c": 0}));
    assert_eq!(value("chain")["clip"], serde_json::json!({"global_norm": 0.7, "norm": "l2", "form": "pytorch"}));
    assert_eq!(value("chain")["ema"]["overwrite_every"], 3);
    assert_eq!(value("groups")[0]["schedule"]["kind"], "one_cycle");
    assert!(value("groups")[1].get("schedule").is_none());
    let plain = pairs(&crate::run::saved().1);
    assert!(plain.get("scaler").is_none() && plain.get("histories").is_none(), "{plain}");
    let checkpoint = Checkpoint::from_bytes("run", saved()).unwrap();
    assert_eq!(checkpoint.chain(), chain());
}

/// Every bit of the header, in which all of this stands.
#[test]
fn every_bit_of_what_the_loop_is_in_counts() {
    let bytes = saved();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut run = OnCpu::chained(&adam(), &SMALL, &chain());
    run.set_schedule(0, Some(schedule()));
    let before = run.world();
    for bit in 0..(8 + header) * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let load = |file: Checkpoint| run.load_with(&file, PARAMS, false);
        assert!(Checkpoint::from_bytes("changed", changed).and_then(load).is_err(), "bit {bit} can be flipped");
    }
    assert_eq!(run.world(), before);
    run.load_with(&Checkpoint::from_bytes("whole", bytes).unwrap(), PARAMS, false).unwrap();
}

#[test]
fn any_scale_comes_back_to_the_bit() {
    for scale in [f32::from_bits(1), 1.1754944e-38, 0.1, 1.0 + f32::EPSILON, 65_536.0, f32::MAX] {
        let (_folder, path) = folder();
        let mut run = OnCpu::chained(&adam(), &SMALL, &chain());
        let control = wgpu_optim::chain::control::Control { scale, growth_tracker: 1, skipped: u64::MAX };
        run.optimizer.set_control(control).unwrap();
        run.optimizer.set_recorded(u64::MAX);
        run.save(&path, false, Extras::default()).unwrap();
        let mut again = OnCpu::chained(&adam(), &SMALL, &chain());
        again.load_with(&Checkpoint::open(&path).unwrap(), Load::default(), false).unwrap();
        assert_eq!(again.world().running, (scale.to_bits(), 1, u64::MAX, u64::MAX));
        // Such counts go no further, and nothing panics.
        step(&mut again, 1, true);
        assert_eq!(again.world().running.2, u64::MAX);
    }
}

/// The scale lies in a buffer that a caller may write, so a device can hold what no scaler came to.
#[test]
fn a_scale_that_no_scaler_came_to_is_not_saved() {
    let Some(gpu) = gpu() else { return };
    for scale in [f32::NAN, f32::INFINITY, -1.0, 0.0] {
        let (_folder, path) = folder();
        let run = OnGpu::chained(&gpu, &adam(), &SMALL, &chain());
        gpu.queue.write_buffer(run.optimizer.scale().unwrap(), 0, &scale.to_le_bytes());
        let error = run.save(&path, false, Extras::default()).unwrap_err();
        assert!(error.to_string().contains("cannot hold the scale"), "{error}");
        assert!(!path.exists());
    }
}

/// A device counts in 32 bits where it counts itself.
#[test]
fn counts_that_a_device_has_no_room_for_are_refused_by_name() {
    let Some(gpu) = gpu() else { return };
    let (_folder, path) = folder();
    let mut run = OnCpu::chained(&adam(), &SMALL, &chain());
    run.set_step("w", 1 << 32);
    run.set_step("b", u32::MAX.into());
    run.save(&path, false, Extras::default()).unwrap();
    let mut device = OnGpu::chained(&gpu, &adam(), &SMALL, &chain());
    let before = device.world();
    let error = device.load_with(&Checkpoint::open(&path).unwrap(), Load::default(), false).unwrap_err().to_string();
    let told = "the steps of \"w\" are 4294967296 in it, the optimizer's device counts to 4294967295";
    assert!(error.ends_with(told), "{error}");
    assert_eq!(device.world(), before);
    run.set_step("w", 7);
    run.save(&path, false, Extras::default()).unwrap();
    device.load_with(&Checkpoint::open(&path).unwrap(), Load::default(), false).unwrap();
    assert_eq!(device.world().steps, [7, u32::MAX.into(), 0]);
}

/// A file from before any of this, as `tests/attacks/make.py` writes it.
#[test]
fn a_file_that_is_older_than_the_loop_is_taken_where_nothing_of_it_is_in_use() {
    let path = format!("{}/tests/attacks/checkpoint/data_damaged.safetensors", env!("CARGO_MANIFEST_DIR"));
    let mut bytes = std::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() = 0;
    assert!(pairs(&bytes).get("recorded").is_none());
    let old = Checkpoint::from_bytes("old", bytes).unwrap();
    assert_eq!((old.chain(), old.schedules()), (Chain::default(), &[None][..]));
    let tensors = [("w", 2, 0)];
    let mut run = OnCpu::new(&[Adam::PYTORCH], &tensors);
    run.step(1);
    run.load_with(&old, Load::default(), false).unwrap();
    assert_eq!((run.world().steps, run.optimizer.recorded()), (vec![3], 1));
    let chain = Chain { clip: Some(Clip::value(1.0)), ..Chain::default() };
    let mut run = OnCpu::chained(&[Adam::PYTORCH], &tensors, &chain);
    run.set_schedule(0, Some(schedule()));
    let error = run.load_with(&old, Load::default(), false).unwrap_err().to_string();
    assert!(error.contains("clip of the chain is off in it and on in the optimizer"), "{error}");
    assert!(error.contains("the schedule of group 0 is none in it"), "{error}");
}

/// PyTorch's count is of the steps that were taken.
#[test]
fn a_state_dict_of_a_scaled_run_has_the_steps_that_were_taken() {
    let chain = Chain { scaler: Some(Scaler { init_scale: 1024.0, ..Scaler::PYTORCH }), ..Chain::default() };
    let settings = [Adam::PYTORCH, Adam { lr: 0.1, ..Adam::PYTORCH }];
    let taken = |step: &mut dyn FnMut(bool)| [false, true, false, true, false].into_iter().for_each(step);
    let steps = |path: &std::path::Path| {
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        (0..3)
            .map(|id| f32::from_le_bytes(file.tensor(&format!("state.{id}.step")).unwrap().data().try_into().unwrap()))
            .collect::<Vec<f32>>()
    };
    let lens = [5, 2, 1];
    let (_folder, path) = folder();
    let mut cpu = OnCpu::chained(&settings, &SMALL, &chain);
    taken(&mut |infinite| cpu.step_with(&grads(&lens, 1, infinite)));
    cpu.save_pytorch(&path).unwrap();
    assert_eq!(steps(&path), [3.0; 3]);
    let Some(gpu) = gpu() else { return };
    let mut device = OnGpu::chained(&gpu, &settings, &SMALL, &chain);
    taken(&mut |infinite| device.step_with(&grads(&lens, 1, infinite)));
    assert_eq!(device.optimizer.step_of("w").unwrap(), 5, "the host has counted what was recorded");
    device.save_pytorch(&path).unwrap();
    assert_eq!(steps(&path), [3.0; 3]);
    // And back: the device is told.
    let mut again = OnGpu::chained(&gpu, &settings, &SMALL, &chain);
    again.load_with(&Checkpoint::open(&path).unwrap(), Load::default(), false).unwrap();
    assert_eq!(again.world().steps, [3; 3]);
    again.step_with(&grads(&lens, 2, false));
    assert_eq!(again.world().steps, [4; 3]);
}

/// One that the file has not goes on from its own count, which the host does not know, beside those that it has.
#[test]
fn restored_tensors_are_not_stepped_with_those_of_another_count() {
    let Some(gpu) = gpu() else { return };
    let chain = Chain { scaler: Some(Scaler::PYTORCH), ..Chain::default() };
    let settings = [Adam::PYTORCH];
    let mut file = OnGpu::chained(&gpu, &settings, &[("w", 5, 0)], &chain);
    let lens = [5, 2];
    [false, true, false].iter().for_each(|&infinite| file.step_with(&grads(&lens[..1], 1, infinite)));
    let (_folder, path) = folder();
    file.save(&path, true, Extras::default()).unwrap();
    // Two were recorded and one taken of `b`; of `w` two are taken.
    let mut run = OnGpu::chained(&gpu, &settings, &[("w", 5, 0), ("b", 2, 0)], &chain);
    [false, true].iter().for_each(|&infinite| run.step_with(&grads(&lens, 2, infinite)));
    run.load_with(&Checkpoint::open(&path).unwrap(), PARAMS, true).unwrap();
    assert_eq!(run.world().steps, [2, 1]);
    run.step_with(&grads(&lens, 3, false));
    assert_eq!(run.world().steps, [3, 2]);
    let alone = {
        let mut alone = OnGpu::chained(&gpu, &settings, &[("w", 5, 0)], &chain);
        alone.load(&path).unwrap();
        alone.step_with(&grads(&lens[..1], 3, false));
        alone.world()
    };
    assert_eq!(run.world().params[0], alone.params[0], "stepped by another's corrections");
}

#[test]
fn a_chain_in_a_file_is_what_it_was() {
    let clips = [Over::Value, Over::Tensor, Over::Group, Over::All].map(|over| Clip {
        max: 0.1 + 0.2,
        over,
        norm: Norm::Inf,
        form: ClipForm::Keras,
    });
    for clip in clips {
        let chain = Chain { clip: Some(clip), ..chain() };
        let json = serde_json::to_string(&chain).unwrap();
        assert_eq!(serde_json::from_str::<Chain>(&json).unwrap(), chain, "{json}");
        assert_eq!(toml::from_str::<Chain>(&toml::to_string(&chain).unwrap()).unwrap(), chain);
    }
    let read = |text: &str| toml::from_str::<Chain>(text);
    assert_eq!(read("").unwrap(), Chain::default());
    assert_eq!(read("[clip]\nglobal_norm = 1.0").unwrap().clip, Some(Clip::global_norm(1.0)));
    assert_eq!(read("[clip]\ntensor_norm = 1.0").unwrap().clip, Some(Clip::tensor_norm(1.0)));
    assert_eq!(read("[scaler]").unwrap().scaler, Some(Scaler::PYTORCH));
    assert_eq!(read("[ema]\ndecay = 0.5").unwrap().ema, Some(Ema { decay: 0.5, overwrite_every: 0 }));
    for (text, told) in [
        ("[clip]\nnorm = 'l2'", "0 of global_norm, group_norm, tensor_norm and value are given, expected one"),
        ("[clip]\nvalue = 1\ntensor_norm = 1", "2 of global_norm"),
        ("[clip]\nvalue = 1\nnorm = 'l3'", "unknown variant `l3`, expected `l2` or `inf`"),
        ("[scaler]\nscale = 2.0", "unknown field `scale`"),
        ("[ema]\noverwrite_every = 2", "missing field `decay`"),
        ("[sofa]", "unknown field `sofa`"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

/// A momentum that cycles is refused where there is none, also as the file's.
#[test]
fn a_schedule_that_the_groups_cannot_follow_touches_nothing() {
    let (_folder, path) = folder();
    let mut run = OnCpu::new(&[RmsProp { momentum: 0.9, ..RmsProp::PYTORCH }], &[("w", 3, 0)]);
    run.set_schedule(0, Some(schedule()));
    run.step(1);
    run.save(&path, true, Extras::default()).unwrap();
    let mut other = OnCpu::new(&[RmsProp::PYTORCH], &[("w", 3, 0)]);
    let before = other.world();
    let load = Load { params: true, retune: true, ..Default::default() };
    let error = other.load_with(&Checkpoint::open(&path).unwrap(), load, false).unwrap_err();
    assert!(error.to_string().contains("momentum > 0 of group 0 is true in it and false"), "{error}");
    assert_eq!(other.world(), before);
}
