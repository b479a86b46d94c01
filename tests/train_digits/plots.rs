//! Curves, as numbers and as pictures.

use crate::example::curve::Curve;
use crate::example::plot::{Named, csv, svg};
use crate::example::telemetry::Sample;

fn named<const N: usize>(curves: [(&str, Vec<f32>); N]) -> Vec<Named> {
    curves.map(|(name, losses)| (name.to_string(), Curve::new(losses))).into()
}

#[test]
fn a_loss_that_did_not_arrive_is_a_gap_until_it_does() {
    let mut curve = Curve::default();
    let sample = |step, loss| Sample { step, loss, accuracy: 0.0 };
    curve.extend([sample(0, 2.5), sample(3, 0.1)]);
    let [losses] = [curve.losses().to_vec()];
    assert_eq!(csv(&named([("f32", losses)])).unwrap(), "step,loss\n0,2.5\n1,NaN\n2,NaN\n3,0.1\n");
    curve.extend([sample(2, 1.5), sample(1, 2.0), sample(3, 0.5)]);
    assert_eq!(curve.losses(), [2.5, 2.0, 1.5, 0.5]);
}

#[test]
fn several_curves_have_a_column_each() {
    let curves = named([("f32", vec![2.0, 1.0]), ("q8", vec![2.5])]);
    assert_eq!(csv(&curves).unwrap(), "step,f32,q8\n0,2.0,2.5\n1,1.0,NaN\n");
}

#[test]
fn curves_are_drawn_for_light_and_for_dark() {
    let nothing = svg(&named([("f32", vec![2.0]), ("q8", vec![f32::NAN])]), "nothing").unwrap_err();
    assert_eq!(nothing.to_string(), "no loss of q8 can be drawn");
    let line = || vec![2.0, 1.0, f32::NAN, 0.0, 0.25];
    for several in [false, true] {
        let curves = named([("f32", line()), ("bf16", line())]);
        let curves = &curves[..1 + usize::from(several)];
        let svg = svg(curves, "a <title>").unwrap();
        for colour in ["#0072B2", "#D55E00"].iter().take(curves.len()) {
            let line = svg.lines().find(|line| line.contains("<polyline") && line.contains(colour)).unwrap();
            let line = line.split_once("points=\"").unwrap().1.split_once('"').unwrap().0;
            assert_eq!(line.split_whitespace().count(), 3, "{line}");
        }
        assert!(svg.contains("a &lt;title&gt;") && svg.contains("prefers-color-scheme: dark"), "{svg}");
        assert_eq!([svg.contains("\nf32\n"), svg.contains("\nbf16\n")], [several; 2], "{svg}");
        // Each rule for dark sees something.
        let rules: Vec<&str> =
            svg.lines().filter_map(|line| line.trim().strip_prefix('[')?.split_once(']')).map(|rule| rule.0).collect();
        assert_eq!(rules.len(), 2 + curves.len());
        for rule in rules {
            assert!(svg.matches(rule).count() > 1, "nothing has {rule}");
        }
    }
}
