//! Listed rows whose state is put back to where it starts.

use std::collections::BTreeMap;

use wgpu_optim::{Adam, Chain, Ema, RmsProp, Rows, Rule, cpu};

use crate::stand::{Held, Spec, Stand, list, shuffled, small};
use crate::support::{self, Gpu};

const SPECS: [Spec; 4] = [(300, 3, 0), (300, 4, 0), (40, 48, 1), (9, 1, 0)];

/// What is left of a tensor whose rows were reset.
fn expected<R: Rule>(rule: &R, held: &Held, rows: &[u32], width: usize) -> Held {
    let mut slots: BTreeMap<_, Vec<u32>> = held.slots.clone();
    for (slot, values) in &mut slots {
        let start = R::SLOTS.iter().position(|own| own == slot).map_or(0.0, |own| rule.initial(own) as f32).to_bits();
        for row in rows {
            let own = *row as usize * width..(*row as usize + 1) * width;
            match *slot {
                "ema" => values[own.clone()].copy_from_slice(&held.params[own]),
                _ => values[own].fill(start),
            }
        }
    }
    Held { params: held.params.clone(), slots }
}

fn reset<R: Rule>(gpu: &Gpu, rule: R, chain: &Chain, specs: &[Spec]) {
    let mut stand = Stand::chained(gpu, rule, chain, specs);
    stand.step_both(&[]);
    stand.step_both(&[(1, &[5, 6, 7])]);
    let lists: Vec<Vec<u32>> = specs[1..3].iter().map(|spec| shuffled(spec.0)[..spec.0 / 2].to_vec()).collect();
    let before = stand.held();
    let mut encoder = stand.encoder();
    let rows: Vec<Rows> = lists.iter().map(|rows| list(gpu, rows)).collect();
    // What is frozen is only not stepped.
    stand.optimizer.freeze(["t2"]).unwrap();
    stand.optimizer.reset_rows(&gpu.device, &mut encoder, ["t1", "t2"].into_iter().zip(rows)).unwrap();
    stand.optimizer.thaw(["t2"]).unwrap();
    stand.submit(encoder);
    for (tensor, (before, after)) in before.iter().zip(&stand.held()).enumerate() {
        let rows = if (1..3).contains(&tensor) { lists[tensor - 1].as_slice() } else { &[] };
        assert!(expected(&stand.rule, before, rows, stand.width(tensor)) == *after, "t{tensor}");
    }
    let params: Vec<&[f32]> = stand.own.iter().map(Vec::as_slice).collect();
    let widths = [stand.width(1), stand.width(2)];
    let rows = ["t1", "t2"].into_iter().zip(widths.into_iter().zip(&lists));
    stand.twin.reset_rows(&params, rows.map(|(name, (width, list))| (name, cpu::Rows { width, list }))).unwrap();
    stand.beside_twin("reset");
    stand.step_both(&[(2, &lists[1])]);
    stand.beside_twin("stepped on");
}

#[test]
fn state_of_listed_rows_starts_again() {
    let Some(gpu) = support::gpu() else { return };
    reset(&gpu, Adam { amsgrad: true, ..Adam::PYTORCH }, &Chain::default(), &SPECS);
    reset(&gpu, RmsProp { initial_scale: 0.25, momentum: 0.9, ..RmsProp::PYTORCH }, &Chain::default(), &SPECS);
    let chain = Chain { ema: Some(Ema { decay: 0.9, ..Ema::KERAS }), ..Chain::default() };
    reset(&gpu, RmsProp { momentum: 0.9, centered: true, clamp_centered: true, ..RmsProp::PYTORCH }, &chain, &SPECS);
}

#[test]
fn rows_of_several_windows_start_again() {
    let Some(gpu) = small() else { return };
    reset(&gpu, Adam::PYTORCH, &Chain::default(), &[(3, 3, 0), (20_001, 5, 0), (30_000, 4, 0)]);
}
