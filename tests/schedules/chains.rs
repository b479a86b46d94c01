//! Parts that follow each other, steps past the end, and steps taken out of order.

use wgpu_optim::schedule::{Base, Constant, Cosine, Exponential, Linear, OneCycle, Polynomial, Schedule, Step};

use super::{BASE, lr, momentum};

fn four_parts() -> Schedule {
    let warmup = Linear { start_factor: 0.5, total_iters: 4, ..Linear::new() };
    let still = Constant { factor: 1.0, ..Constant::new() };
    Schedule::from(warmup).then(4, still).then(10, Cosine::new(8)).then(18, Exponential::new(0.5))
}

#[test]
fn each_part_starts_at_its_own_step_0_from_the_groups_lr() {
    let schedule = four_parts();
    schedule.check().unwrap();
    let parts: [(u64, Schedule); 4] = [
        (0, Linear { start_factor: 0.5, total_iters: 4, ..Linear::new() }.into()),
        (4, Constant { factor: 1.0, ..Constant::new() }.into()),
        (10, Cosine::new(8).into()),
        (18, Exponential::new(0.5).into()),
    ];
    for step in 0..40 {
        let (start, alone) = parts.iter().rev().find(|(start, _)| *start <= step).unwrap();
        assert_eq!(lr(&schedule, step), lr(alone, step - start), "step {step}");
    }
    assert_eq!(
        [0, 2, 4, 9, 10, 14, 18, 19].map(|step| lr(&schedule, step)),
        [0.005, 0.0075, 0.01, 0.01, 0.01, 0.005, 0.01, 0.005]
    );
}

#[test]
fn a_chain_in_a_chain_counts_from_its_own_start() {
    let inner = Schedule::from(Step { gamma: 0.5, ..Step::new(3) }).then(6, Polynomial::default());
    let outer = Schedule::from(Linear::default()).then(5, inner.clone());
    assert_eq!(outer.then.iter().map(|part| part.at).collect::<Vec<_>>(), [5, 11]);
    for step in 0..20 {
        assert_eq!(lr(&outer, 5 + step), lr(&inner, step));
    }
}

#[test]
fn the_momentum_stays_where_the_last_part_to_move_it_left_it() {
    let cycle = OneCycle { max_momentum: 0.8, base_momentum: 0.4, ..OneCycle::new(0.1, 10) };
    let alone = Schedule::from(cycle.clone());
    let warmup = Linear { total_iters: 3, ..Linear::new() };
    let schedule = Schedule::from(warmup).then(3, cycle).then(7, Constant::default()).then(20, Cosine::new(5));
    assert!(schedule.cycles_momentum());
    assert_eq!(momentum(&schedule, 2), 0.9, "the group's own, before");
    assert_eq!(momentum(&schedule, 3), 0.8);
    assert_eq!(momentum(&schedule, 5), momentum(&alone, 2));
    for step in [7, 8, 19, 20, 1000, u64::MAX] {
        assert_eq!(momentum(&schedule, step), momentum(&alone, 3), "step {step}");
    }
}

#[test]
fn a_rule_without_momentum_is_told_of_none() {
    let base = Base { lr: 0.01, momentum: None };
    assert_eq!(four_parts().at(3, base).momentum, None);
    assert!(!four_parts().cycles_momentum());
}

#[test]
fn past_their_end_one_cycle_holds_and_cosine_goes_up_again() {
    let cycle = Schedule::from(OneCycle::new(0.1, 60));
    for step in [60, 61, 1 << 40, u64::MAX] {
        assert_eq!(cycle.at(step, BASE), cycle.at(59, BASE));
    }
    let cosine = Schedule::from(Cosine { eta_min: 0.001, ..Cosine::new(50) });
    assert_eq!(lr(&cosine, 50), 0.001);
    assert_eq!(lr(&cosine, 100), lr(&cosine, 0));
    assert_eq!(lr(&cosine, 100_000_000_000_000_050), 0.001, "a step that f64 cannot tell from its neighbours");
}

#[test]
fn a_way_up_of_one_step_begins_at_the_top() {
    // PyTorch divides by zero here.
    let cycle = Schedule::from(OneCycle { pct_start: 0.1, ..OneCycle::new(0.1, 10) });
    assert_eq!(lr(&cycle, 0), 0.1);
    assert_eq!(momentum(&cycle, 0), 0.85);
}
