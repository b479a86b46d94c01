//! The example's shaders, without a GPU.

use std::collections::BTreeSet;

use naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::example::kernel::{BACKWARD_INPUTS, BACKWARD_WEIGHTS, CROSS_ENTROPY, FORWARD, NARROW, Shader, TALLY, WIDEN};

const SHADERS: [Shader; 7] = [FORWARD, CROSS_ENTROPY, TALLY, BACKWARD_INPUTS, BACKWARD_WEIGHTS, WIDEN, NARROW];

/// What packs numbers of 16 bits is in WebGPU; naga asks, since some GL has it not.
const CAPABILITIES: Capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;

#[test]
fn every_shader_is_valid_and_has_the_workgroup_that_the_host_counts_with() {
    for Shader { name, text, workgroup } in SHADERS {
        let module =
            naga::front::wgsl::parse_str(text).unwrap_or_else(|error| panic!("{}", error.emit_to_string(text)));
        let mut validator = Validator::new(ValidationFlags::all(), CAPABILITIES);
        validator.validate(&module).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let [entry] = &module.entry_points[..] else { panic!("{name} has {} entries", module.entry_points.len()) };
        assert_eq!((entry.name.as_str(), entry.workgroup_size), ("step", [workgroup[0], workgroup[1], 1]), "{name}");
    }
}

#[test]
fn every_shader_file_is_used() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/train_digits");
    let names = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<String> = names.filter(|name| name.ends_with(".wgsl")).collect();
    assert_eq!(files, SHADERS.iter().map(|shader| format!("{}.wgsl", shader.name)).collect());
}
