//! Whether a step landed where the twin's does: the part of the envelope that costs next to nothing.

use wgpu_optim::Rule;
use wgpu_optim::envelope::{Device, FLUSHED, SHARE, STATE_SHARE, Snapshot, ULPS};

/// Whether every parameter and every slot is as near to the twin's as the envelope asks, without what it grants to
/// terms that cancel. What is not near may still hold: that is for the oracle to say.
pub fn is_near<R: Rule>(
    rule: &R,
    h: &R::Hyper<f32>,
    before: &Snapshot<f32>,
    grads: &[f32],
    Device(after): Device<'_>,
) -> bool {
    let twin: Snapshot<f32> = before.stepped(rule, h, grads);
    let slots = before.slots.iter().zip(&twin.slots).zip(&after.slots);
    after.slots.len() == twin.slots.len()
        && params_are_near(&before.params, &twin.params, &after.params)
        && slots.into_iter().all(|((before, twin), after)| state_is_near(before, twin, after))
}

pub fn params_are_near(before: &[f32], twin: &[f32], after: &[f32]) -> bool {
    let share = params_slack(before, twin);
    all_within(before, twin, after, |p0, p| share + ULPS as f32 * ulp(p0.abs().max(p.abs())))
}

/// What every parameter may be off by: a share of the largest update.
pub fn params_slack(before: &[f32], twin: &[f32]) -> f32 {
    let update = |(p0, p): (&f32, &f32)| (p - p0).abs();
    SHARE as f32 * before.iter().zip(twin).map(update).fold(0.0, f32::max)
}

pub fn state_is_near(before: &[f32], twin: &[f32], after: &[f32]) -> bool {
    all_within(before, twin, after, |s0, s| STATE_SHARE as f32 * (s0.abs() + s.abs()) + FLUSHED as f32)
}

/// Whether no value is farther from the twin's than `allowed` of the values before and after; none that is not finite
/// is. Without a way out of the loop it becomes lanes.
fn all_within(before: &[f32], twin: &[f32], after: &[f32], allowed: impl Fn(f32, f32) -> f32) -> bool {
    let within = |((&before, &twin), &after): ((&f32, &f32), &f32)| {
        let allowed = allowed(before, twin);
        ((after - twin).abs() <= allowed) & (allowed < f32::INFINITY)
    };
    after.len() == twin.len() && before.iter().zip(twin).zip(after).map(within).fold(true, |all, one| all & one)
}

/// The distance from a normal number to the next larger one: its power of two alone, in the last place. Of a
/// subnormal it is 0, which grants too little.
fn ulp(x: f32) -> f32 {
    f32::from_bits(x.to_bits() & f32::INFINITY.to_bits()) * f32::EPSILON
}

#[cfg(test)]
mod tests {
    use wgpu_optim::Adam;
    use wgpu_optim::envelope::{Probe, Trial};
    use wgpu_optim::rule::cast;

    use super::*;

    const RULE: Adam = Adam::PYTORCH;

    /// What the quick look and the envelope say of the twin's step after `change` was done to it.
    fn judged(change: impl FnOnce(&Snapshot<f32>, &mut Snapshot<f32>)) -> (bool, bool) {
        let mut start = Probe::new(&RULE, 1000, 1, true).start;
        start.slots.truncate(2);
        let grads: Vec<f32> = (0..1000u16).map(|i| f32::from(i) * 1e-3 - 0.4).collect();
        let h = cast(&RULE.fold(4));
        let mut after = start.stepped(&RULE, &h, &grads);
        change(&start, &mut after);
        let near = is_near(&RULE, &h, &start, &grads, Device(&after));
        (near, Trial::new(&RULE, 4, &start, &grads).against_twin(Device(&after)).holds())
    }

    #[test]
    fn the_twin_is_near_itself_and_so_is_a_neighbour() {
        assert_eq!(judged(|_, _| ()), (true, true));
        assert_eq!(judged(|_, after| after.params[500] = after.params[500].next_up()), (true, true));
        assert_eq!(judged(|_, after| after.slots[0][500] = after.slots[0][500].next_down()), (true, true));
    }

    #[test]
    fn one_wrong_element_is_not_near() {
        for at in [0, 3, 500, 999] {
            assert_eq!(judged(|_, after| after.params[at] += 1e-5), (false, false), "{at}");
            assert_eq!(judged(|_, after| after.slots[1][at] *= 1.0001), (false, false), "{at}");
            for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert_eq!(judged(|_, after| after.params[at] = odd), (false, false), "{at} {odd}");
                assert_eq!(judged(|_, after| after.slots[0][at] = odd), (false, false), "{at} {odd}");
            }
        }
    }

    #[test]
    fn what_did_not_move_or_is_missing_is_not_near() {
        assert_eq!(judged(|before, after| after.params.clone_from(&before.params)), (false, false));
        assert_eq!(judged(|before, after| after.slots[1].clone_from(&before.slots[1])), (false, false));
        assert_eq!(judged(|_, after| after.params.truncate(500)), (false, false));
        assert_eq!(judged(|_, after| after.slots[1].clear()), (false, false));
        assert!(!all_within(&[1.0], &[f32::INFINITY], &[1.0], |_, twin| twin), "finite where the twin is not");
    }

    #[test]
    fn an_ulp_is_the_distance_to_the_next_number() {
        for x in [1.0, 1.5, 0.48, 1e-20, 1e30, f32::MIN_POSITIVE] {
            assert_eq!(ulp(x), x.next_up() - x, "{x}");
        }
    }
}
