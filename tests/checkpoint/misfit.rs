//! A sound file of another optimizer: everything that disagrees is told at once, and nothing is touched.

use wgpu_optim::checkpoint::{Checkpoint, Disagreement as D, Error, Extras, Load};
use wgpu_optim::{Adam, RmsProp, Rule};

use crate::run::{LOAD, OnCpu, OnGpu, Run, adam, folder, rmsprop, saved};
use crate::support::gpu;

/// What an optimizer says of the file of [`saved`], and that it is what it was.
fn refusal<R: Rule>(groups: &[R], tensors: &[(&str, usize, usize)], load: Load<'_>) -> (Vec<D>, String) {
    let checkpoint = Checkpoint::from_bytes("run", saved().1).unwrap();
    let mut run = OnCpu::new(groups, tensors);
    run.step(9);
    let again = || Load { params: load.params, extras: load.extras, retune: load.retune, cast: &[] };
    let told = refused(&mut run, &checkpoint, again());
    if let Some(gpu) = gpu() {
        let mut run = OnGpu::new(&gpu, groups, tensors);
        run.step(9);
        assert_eq!(refused(&mut run, &checkpoint, again()), told, "the GPU says something else");
    }
    told
}

fn refused<R: Rule>(run: &mut impl Run<R>, checkpoint: &Checkpoint, load: Load<'_>) -> (Vec<D>, String) {
    let before = run.world();
    let error = run.load_with(checkpoint, load, false).unwrap_err();
    assert_eq!(run.world(), before, "a refused file changed something: {error}");
    let message = error.to_string();
    let Error::Mismatch { disagreements, .. } = error else { panic!("{message}") };
    (disagreements, message)
}

fn setting(group: usize, setting: &'static str, file: &str, optimizer: &str) -> D {
    D::Setting { group, setting, file: file.into(), optimizer: optimizer.into() }
}

#[test]
fn everything_that_disagrees_is_listed_at_once() {
    let [first, second] = adam();
    let groups = [Adam { amsgrad: false, ..first }, Adam { beta2: 0.99, ..second.clone() }, second];
    let tensors = [("w", 6, 0), ("b", 2, 0), ("d", 3, 1), ("e", 4, 2)];
    let load = Load { params: true, extras: &["note", "counters"], retune: false, cast: &[] };
    let (told, message) = refusal(&groups, &tensors, load);
    let slots = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
    let expected = [
        D::Groups { file: 2, optimizer: 3 },
        setting(0, "amsgrad", "true", "false"),
        setting(1, "beta2", "0.999", "0.99"),
        D::Length { name: "w".into(), file: 5, optimizer: 6 },
        D::Group { name: "b".into(), file: 1, optimizer: 0 },
        D::MissingTensor { name: "d".into(), len: 3 },
        D::MissingTensor { name: "e".into(), len: 4 },
        D::UnexpectedTensor { name: "c".into(), nearest: Some("b".into()) },
        D::UnexpectedExtra { name: "scales".into() },
        D::MissingExtra { name: "counters".into() },
    ];
    assert_eq!(told, expected);
    for line in [
        "run: it does not fit the optimizer:\n  it has 2 groups, the optimizer has 3\n",
        "\n  amsgrad of group 0 is true in it and false in the optimizer\n",
        "\n  \"w\" has 5 elements in it and 6 in the optimizer\n",
        "\n  \"b\" is in group 1 of it and in group 0 of the optimizer\n",
        "\n  it has no \"d\", which has 3 elements\n",
        "\n  the optimizer has no \"c\"; the nearest is \"b\"\n",
        "\n  its section \"scales\" was not asked for\n",
        "\n  it has no section \"counters\"",
    ] {
        assert!(message.contains(line), "{line:?} is not in {message:?}");
    }
    let slots_differ = refusal(&[groups[0].clone(), adam()[1].clone()], &[("w", 5, 0), ("b", 2, 1), ("c", 1, 1)], LOAD);
    let file = slots(&["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]);
    let slots = D::Slots { name: "w".into(), file, optimizer: vec!["exp_avg", "exp_avg_sq"] };
    assert_eq!(slots_differ.0, [setting(0, "amsgrad", "true", "false"), slots]);
    assert!(
        slots_differ.1.contains("it has exp_avg, exp_avg_sq, max_exp_avg_sq of \"w\", which keeps exp_avg, exp_avg_sq")
    );
}

#[test]
fn another_rule_is_told_with_the_tensors_that_do_not_fit() {
    let (told, _) = refusal(&rmsprop(), &[("w", 5, 0), ("b", 3, 1)], LOAD);
    let rule = D::Rule { file: "adam".into(), optimizer: "rmsprop" };
    let length = D::Length { name: "b".into(), file: 2, optimizer: 3 };
    let rest = D::UnexpectedTensor { name: "c".into(), nearest: Some("b".into()) };
    assert_eq!(told, [rule, length, rest]);
}

#[test]
fn numbers_are_taken_from_the_file_if_asked_for_and_structure_never() {
    let tensors = [("w", 5, 0), ("b", 2, 1), ("c", 1, 1)];
    let [first, second] = adam();
    let retune = || Load { params: true, extras: &["note", "scales"], retune: true, cast: &[] };
    let checkpoint = Checkpoint::from_bytes("run", saved().1).unwrap();
    let mut run = OnCpu::new(&[Adam { lr: 1.0, ..first.clone() }, Adam { eps: 0.5, ..second.clone() }], &tensors);
    run.load_with(&checkpoint, retune(), false).unwrap();
    assert_eq!(run.optimizer.groups(), adam());
    let (told, _) = refusal(&[Adam { nesterov: true, lr: 1.0, ..first }, second], &tensors, retune());
    assert_eq!(told, [setting(0, "nesterov", "false", "true")]);
    let groups = rmsprop();
    let (_folder, path) = folder();
    OnCpu::new(&groups, &tensors).save(&path, false, Extras::default()).unwrap();
    let groups = [RmsProp { lr_in_momentum: true, ..groups[0].clone() }, groups[1].clone()];
    let load = Load { retune: true, ..Default::default() };
    let error = OnCpu::new(&groups, &tensors).load_with(&Checkpoint::open(&path).unwrap(), load, false).unwrap_err();
    assert!(
        error.to_string().contains("lr_in_momentum of group 0 is false in it and true in the optimizer"),
        "{error}"
    );
}

#[test]
fn parameters_that_were_not_saved_are_missed_by_name_if_asked_for() {
    let (run, _) = saved();
    let (_folder, path) = folder();
    run.save(&path, false, Extras::default()).unwrap();
    let mut other = crate::run::small();
    let (told, _) = refused(&mut other, &Checkpoint::open(&path).unwrap(), Load { params: true, ..Default::default() });
    assert_eq!(told, ["w", "b", "c"].map(|name| D::MissingParams { name: name.into() }));
}

#[test]
fn a_long_list_is_cut_in_the_message_and_whole_in_the_error() {
    let names: Vec<String> = (0..30).map(|i| format!("tensor-{i}")).collect();
    let tensors: Vec<(&str, usize, usize)> = names.iter().map(|name| (name.as_str(), 1, 0)).collect();
    let (told, message) = refusal(&adam(), &tensors, LOAD);
    assert_eq!(told.len(), 33);
    assert!(message.ends_with("and 21 more"), "{message}");
}
