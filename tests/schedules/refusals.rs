//! What `check` and files refuse, and the words for it.

use wgpu_optim::Error;
use wgpu_optim::schedule::{Kind, Plateau, Schedule};

fn refused(toml: &str) -> String {
    let schedule: Schedule = toml::from_str(toml).unwrap_or_else(|error| panic!("{toml}: {error}"));
    let error = schedule.check().expect_err(toml);
    assert!(matches!(error, Error::Schedule { .. }));
    error.to_string()
}

fn unread(toml: &str) -> String {
    toml::from_str::<Schedule>(toml).expect_err(toml).message().to_string()
}

#[test]
fn arguments_out_of_range_are_refused_by_name() {
    let cases = [
        ("kind = 'constant'\nfactor = 1.5", "schedule constant: factor is 1.5, expected 0 <= factor <= 1"),
        ("kind = 'constant'\ntotal_iters = 0", "schedule constant: total_iters is 0, expected total_iters >= 1"),
        (
            "kind = 'linear'\nstart_factor = 0.0",
            "schedule linear: start_factor is 0, expected a finite start_factor > 0",
        ),
        (
            "kind = 'linear'\nstart_factor = 1.1",
            "schedule linear: start_factor is 1.1, expected 0 <= start_factor <= 1",
        ),
        ("kind = 'linear'\nend_factor = -0.1", "schedule linear: end_factor is -0.1, expected 0 <= end_factor <= 1"),
        ("kind = 'linear'\ntotal_iters = 0", "schedule linear: total_iters is 0, expected total_iters >= 1"),
        ("kind = 'cosine'\nt_max = 0", "schedule cosine: t_max is 0, expected t_max >= 1"),
        ("kind = 'cosine'\nt_max = 9\neta_min = -1", "schedule cosine: eta_min is -1, expected a finite eta_min >= 0"),
        ("kind = 'cosine_warm_restarts'\nt_0 = 0", "schedule cosine_warm_restarts: t_0 is 0, expected t_0 >= 1"),
        (
            "kind = 'cosine_warm_restarts'\nt_0 = 1\nt_mult = 0",
            "schedule cosine_warm_restarts: t_mult is 0, expected t_mult >= 1",
        ),
        ("kind = 'step'\nstep_size = 0", "schedule step: step_size is 0, expected step_size >= 1"),
        ("kind = 'step'\nstep_size = 1\ngamma = -0.5", "schedule step: gamma is -0.5, expected a finite gamma >= 0"),
        (
            "kind = 'multi_step'\nmilestones = [8, 20, 19]",
            "schedule multi_step: milestones is [8, 20, 19], expected ascending steps",
        ),
        ("kind = 'exponential'\ngamma = nan", "schedule exponential: gamma is NaN, expected a finite gamma >= 0"),
        ("kind = 'polynomial'\npower = inf", "schedule polynomial: power is inf, expected a finite power >= 0"),
        ("kind = 'polynomial'\ntotal_iters = 0", "schedule polynomial: total_iters is 0, expected total_iters >= 1"),
    ];
    cases.iter().for_each(|(toml, expected)| assert_eq!(refused(toml), *expected));
}

#[test]
fn cycles_out_of_range_are_refused_by_name() {
    let cases = [
        ("total_steps = 0", "total_steps is 0, expected total_steps >= 1"),
        ("total_steps = 9\npct_start = 1.5", "pct_start is 1.5, expected 0 <= pct_start <= 1"),
        ("total_steps = 9\nmax_momentum = 1", "max_momentum is 1, expected 0 <= max_momentum < 1"),
        ("total_steps = 9\nbase_momentum = -1", "base_momentum is -1, expected 0 <= base_momentum < 1"),
        ("total_steps = 9\ndiv_factor = 0", "div_factor is 0, expected a finite div_factor > 0"),
        ("total_steps = 9\nfinal_div_factor = inf", "final_div_factor is inf, expected a finite final_div_factor > 0"),
        ("total_steps = 9\ndiv_factor = 1e-320", "div_factor is 1e-320, expected a divisor that leaves 0.1 finite"),
    ];
    for (arguments, expected) in cases {
        let refused = refused(&format!("kind = 'one_cycle'\nmax_lr = 0.1\n{arguments}"));
        assert_eq!(refused, format!("schedule one_cycle: {expected}"));
    }
    let cases = [
        ("max_lr = 0.05", "max_lr is 0.05, expected max_lr >= base_lr, which is 0.1"),
        ("max_lr = 1\nstep_size_up = 0", "step_size_up is 0, expected step_size_up >= 1"),
        ("max_lr = 1\ngamma = 1.1", "gamma is 1.1, expected 0 <= gamma <= 1"),
        ("max_lr = 1\nmax_momentum = 0.7", "max_momentum is 0.7, expected max_momentum >= base_momentum, which is 0.8"),
    ];
    for (arguments, expected) in cases {
        let refused = refused(&format!("kind = 'cyclic'\nbase_lr = 0.1\n{arguments}"));
        assert_eq!(refused, format!("schedule cyclic: {expected}"));
    }
}

#[test]
fn what_other_frameworks_name_is_refused_by_their_names() {
    let cases = [
        (
            "kind = 'warmup_stable_decay'\nnum_warmup_steps = 1\nnum_stable_steps = 1\nnum_decay_steps = 1\n\
             min_lr_ratio = 2",
            "schedule warmup_stable_decay: min_lr_ratio is 2, expected 0 <= min_lr_ratio <= 1",
        ),
        (
            "kind = 'keras_cosine_decay'\ninitial_learning_rate = 1\ndecay_steps = 5\nwarmup_steps = 8",
            "schedule keras_cosine_decay: warmup_steps is 8, expected 0 where no warmup_target is given",
        ),
        (
            "kind = 'keras_exponential_decay'\ninitial_learning_rate = 1\ndecay_steps = 0\ndecay_rate = 1",
            "schedule keras_exponential_decay: decay_steps is 0, expected decay_steps >= 1",
        ),
        (
            "kind = 'keras_inverse_time_decay'\ninitial_learning_rate = 1\ndecay_steps = 1\ndecay_rate = -1",
            "schedule keras_inverse_time_decay: decay_rate is -1, expected a finite decay_rate >= 0",
        ),
        (
            "kind = 'optax_cosine_decay'\ninit_value = -1e-9\ndecay_steps = 1",
            "schedule optax_cosine_decay: init_value is -1e-9, expected a finite init_value >= 0",
        ),
        (
            "kind = 'optax_exponential_decay'\ninit_value = 1\ntransition_steps = 1\ndecay_rate = 0",
            "schedule optax_exponential_decay: decay_rate is 0, expected a finite decay_rate > 0",
        ),
        (
            "kind = 'optax_warmup_cosine_decay'\ninit_value = 0\npeak_value = 1\nwarmup_steps = 9\ndecay_steps = 9",
            "schedule optax_warmup_cosine_decay: decay_steps is 9, expected decay_steps > warmup_steps, which is 9",
        ),
        (
            "kind = 'optax_cosine_onecycle'\ntransition_steps = 9\npeak_value = 1\npct_start = 1",
            "schedule optax_cosine_onecycle: pct_start is 1, expected 0 <= pct_start < 1",
        ),
    ];
    cases.iter().for_each(|(toml, expected)| assert_eq!(refused(toml), *expected));
}

#[test]
fn parts_that_do_not_follow_each_other_are_refused() {
    let chain = |first: u64, second: u64| {
        format!(
            "kind = 'linear'\n[[then]]\nat = {first}\nkind = 'cosine'\nt_max = 9\n\
             [[then]]\nat = {second}\nkind = 'constant'"
        )
    };
    let expected = "schedule constant: at is 8, expected a step after 8, where the part before it starts";
    assert_eq!(refused(&chain(8, 8)), expected);
    let expected = "schedule cosine: at is 0, expected a step after 0, where the part before it starts";
    assert_eq!(refused(&chain(0, 8)), expected);
    let bad_second_part = "kind = 'linear'\n[[then]]\nat = 5\nkind = 'cosine'\nt_max = 0";
    assert_eq!(refused(bad_second_part), "schedule cosine: t_max is 0, expected t_max >= 1");
}

#[test]
fn unknown_kinds_and_keys_are_refused_with_the_known_ones() {
    let message = unread("kind = 'cosin'\nt_max = 5");
    assert!(message.contains("`cosin`"), "{message}");
    for kind in Kind::NAMES {
        assert!(message.contains(&format!("`{kind}`")), "{message}");
    }
    let message = unread("kind = 'cosine'\nt_max = 5\neta = 0.1");
    assert!(message.contains("unknown field `eta`, expected `t_max` or `eta_min`"), "{message}");
    let message = unread("kind = 'linear'\n[[then]]\nat = 5\nkind = 'step'\nstep_size = 5\nstart_factor = 1.0");
    assert!(message.contains("unknown field `start_factor`, expected `step_size` or `gamma`"), "{message}");
    let message = unread("kind = 'one_cycle'\nmax_lr = 1\ntotal_steps = 9\nanneal_strategy = 'cosine'");
    assert!(message.contains("unknown variant `cosine`, expected `cos` or `linear`"), "{message}");
}

#[test]
fn what_must_be_given_and_is_not_is_named() {
    let cases = [
        ("t_max = 5", "missing field `kind`"),
        ("kind = 'cosine'", "missing field `t_max`"),
        ("kind = 'one_cycle'\ntotal_steps = 60", "missing field `max_lr`"),
        ("kind = 'linear'\n[[then]]\nkind = 'constant'", "missing field `at`"),
        ("kind = 'linear'\n[[then]]\nat = 5", "missing field `kind`"),
    ];
    cases.iter().for_each(|(toml, expected)| assert_eq!(unread(toml), *expected));
    assert!(unread("kind = 'cosine'\nt_max = -5").contains("-5"));
    assert!(unread("kind = 'cosine'\nt_max = 5.5").contains("5.5"));
}

#[test]
fn a_plateau_refuses_too() {
    let refused = |plateau: Plateau| plateau.check().unwrap_err().to_string();
    let factor = Plateau { factor: 1.0, ..Plateau::default() };
    assert_eq!(refused(factor), "schedule plateau: factor is 1, expected 0 <= factor < 1");
    let eps = Plateau { eps: f64::NAN, ..Plateau::default() };
    assert_eq!(refused(eps), "schedule plateau: eps is NaN, expected a finite eps >= 0");
}
