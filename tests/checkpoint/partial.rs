//! Loading what fits of a file, for what was changed on purpose.

use wgpu_optim::checkpoint::{Checkpoint, Disagreement, Error, Load};
use wgpu_optim::{Adam, Rule};

use crate::run::{LOAD, OnCpu, OnGpu, Run, World, adam, rmsprop, saved};
use crate::support::gpu;

const TENSORS: [(&str, usize, usize); 3] = [("w", 5, 0), ("c", 1, 0), ("new", 4, 1)];

fn groups() -> [Adam; 2] {
    // The one keeps a slot less than in the file, the tensors of the other one more.
    [Adam { amsgrad: false, lr: 0.5, ..Adam::PYTORCH }, Adam { amsgrad: true, ..Adam::PYTORCH }]
}

fn takes_what_fits(mut run: impl Run<Adam>) -> World {
    let checkpoint = Checkpoint::from_bytes("run", saved().1).unwrap();
    run.step(9);
    run.freeze("c");
    let (before, file) = (run.world(), saved().0.world());
    let load = Load { params: true, extras: &["note", "counters"], retune: true, cast: &[] };
    let report = run.load_with(&checkpoint, load, true).unwrap();
    let loaded =
        ["state.w.exp_avg", "state.w.exp_avg_sq", "params.w", "state.c.exp_avg", "state.c.exp_avg_sq", "params.c"];
    assert_eq!(report.loaded, loaded.iter().copied().chain(["extra.note"]).collect::<Vec<_>>());
    let left =
        ["state.new.exp_avg", "state.new.exp_avg_sq", "state.new.max_exp_avg_sq", "params.new", "extra.counters"];
    assert_eq!(report.left, left);
    let ignored = ["state.w.max_exp_avg_sq", "state.b.exp_avg", "state.b.exp_avg_sq", "params.b", "extra.scales"];
    assert_eq!(report.ignored, ignored);
    assert_eq!(report.extras.values["note"], "a");
    let lr = |d: &Disagreement| matches!(d, Disagreement::Setting { group: 0, setting: "lr", .. });
    assert_eq!(report.differences.iter().filter(|d| lr(d)).count(), 2, "one for each group of the file");
    let after = run.world();
    assert_eq!(after.settings, before.settings, "settings are the optimizer's");
    assert_eq!(after.steps, [2, 2, 1]);
    for (name, slot, values) in &after.state {
        let from = if name == "new" { &before } else { &file };
        let known = from.state.iter().find(|(of, known, _)| of == name && known == slot).unwrap();
        assert_eq!(values, &known.2, "{slot} of {name}");
    }
    assert_eq!(after.params, [&file.params[0], &file.params[2], &before.params[2]].map(Vec::clone));
    // What was frozen is frozen still.
    run.step(10);
    assert_eq!(run.world().steps, [3, 2, 2]);
    after
}

#[test]
fn what_is_in_both_is_loaded_and_the_rest_is_told() {
    let of_cpu = takes_what_fits(OnCpu::new(&groups(), &TENSORS));
    let Some(gpu) = gpu() else { return };
    let of_gpu = takes_what_fits(OnGpu::new(&gpu, &groups(), &TENSORS));
    assert_eq!(of_gpu.steps, of_cpu.steps);
}

#[test]
fn a_slot_that_the_file_has_not_is_what_it_was() {
    let [first, second] = adam();
    let groups = [first, Adam { amsgrad: true, ..second }];
    let mut run = OnCpu::new(&groups, &crate::run::SMALL);
    run.set_state("b", "max_exp_avg_sq", &[5.0, 6.0]);
    let checkpoint = Checkpoint::from_bytes("run", saved().1).unwrap();
    let report = run.load_with(&checkpoint, LOAD, true).unwrap();
    assert_eq!(report.left, ["state.b.max_exp_avg_sq", "state.c.max_exp_avg_sq"]);
    assert_eq!(run.optimizer.state("b", "max_exp_avg_sq").unwrap(), [5.0, 6.0]);
}

#[test]
fn lengths_are_refused_also_here() {
    let mut run = OnCpu::new(&adam(), &[("w", 6, 0), ("b", 3, 1), ("c", 1, 1)]);
    let before = run.world();
    let error = run.load_with(&Checkpoint::from_bytes("run", saved().1).unwrap(), LOAD, true).unwrap_err();
    let Error::Mismatch { disagreements, .. } = error else { panic!("{error}") };
    let length = |name: &str, file, optimizer| Disagreement::Length { name: name.into(), file, optimizer };
    assert_eq!(disagreements, [length("w", 5, 6), length("b", 2, 3)]);
    assert_eq!(run.world(), before);
}

#[test]
fn of_another_rule_only_the_parameters_are_taken() {
    let mut run = OnCpu::new(&rmsprop(), &crate::run::SMALL);
    run.step(9);
    let before = run.world();
    let report = run.load_with(&Checkpoint::from_bytes("run", saved().1).unwrap(), LOAD, true).unwrap();
    assert_eq!(report.differences, [Disagreement::Rule { file: "adam".into(), optimizer: wgpu_optim::RmsProp::NAME }]);
    assert_eq!(report.loaded, ["params.w", "params.b", "params.c", "extra.note", "extra.scales"]);
    assert_eq!(report.ignored.len(), 7);
    let after = run.world();
    assert_eq!((after.state, after.steps), (before.state, before.steps));
    assert_eq!(after.params, saved().0.world().params);
}
