//! Gradients that do not fit their parameters: exit code 1, before anything is stepped.

use safetensors::tensor::Dtype;

use crate::desk::{Desk, STEP};

#[test]
fn a_name_that_is_no_parameter_has_a_nearest_one() {
    let desk = Desk::new();
    desk.tensors("p.safetensors", &[("fc1.weight", &[1], &[1.0]), ("fc1.bias", &[1], &[1.0])]);
    desk.tensors("g0.safetensors", &[("fc1.wieght", &[1], &[1.0])]);
    let parts = ["g0.safetensors: gradient \"fc1.wieght\" has no parameter in p.safetensors", "\"fc1.weight\""];
    desk.refuses(STEP, 1, &parts);
}

#[test]
fn shapes_must_be_the_same_not_only_lengths() {
    let desk = Desk::new();
    desk.tensors("g0.safetensors", &[("w", &[5, 1], &[0.0; 5])]);
    desk.refuses(STEP, 1, &["g0.safetensors: gradient \"w\" has shape [5, 1], in p.safetensors it is [5]"]);
}

#[test]
fn integers_are_never_stepped() {
    let desk = Desk::new();
    desk.raw("g0.safetensors", &[("w", Dtype::I32, &[5], &[0; 20])], None);
    let which = "and only F32, F16 and BF16 can be stepped; leave its gradient out";
    desk.refuses(STEP, 1, &["g0.safetensors: gradient \"w\" is I32, ", which]);
    desk.raw("p.safetensors", &[("w", Dtype::I64, &[1], &[0; 8])], None);
    desk.raw("g0.safetensors", &[("w", Dtype::I64, &[1], &[0; 8])], None);
    desk.refuses(STEP, 1, &["g0.safetensors: parameter \"w\" is I64, ", which]);
}
