//! Files of 16 bits, alone and among others: what is stepped, what it is held against, and what is refused.

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use wgpu_optim::cpu::{self, Slice, SliceMut};
use wgpu_optim::format::{Format, Formats, Rounding, StateFormat};
use wgpu_optim::{Adam, Chain, Clip};

use crate::desk::{Desk, STEP, decoded, devices, encoded, head};

const DTYPES: [(Dtype, Format); 3] =
    [(Dtype::F32, Format::F32), (Dtype::F16, Format::F16), (Dtype::BF16, Format::Bf16)];

/// Bytes that lie as numbers of 4 may.
struct Aligned(Vec<u32>, usize);

impl Aligned {
    fn new(bytes: &[u8]) -> Self {
        let mut words = vec![0; bytes.len().div_ceil(4)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self(words, bytes.len())
    }

    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.0)[..self.1]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.0)[..self.1]
    }
}

/// A tensor of a job: name, formats, parameters, and a gradient for each step.
struct Tensor {
    name: &'static str,
    formats: Formats,
    params: Aligned,
    grads: Vec<Aligned>,
}

/// Steps with the library, one thread, each tensor a group of its own; returns the bytes of the parameters.
fn twin(chain: Chain, mut tensors: Vec<Tensor>) -> Vec<Vec<u8>> {
    let mut optimizer = cpu::Optimizer::<Adam, f32>::with_chain(chain).expect("a chain");
    for Tensor { name, formats, params, .. } in &tensors {
        let len = params.1 / formats.params.size() as usize;
        let group = optimizer.add_group_with(Adam { lr: 0.01, ..Adam::PYTORCH }, formats.clone(), [(*name, len)]);
        group.expect("a group");
    }
    for step in 0..tensors[0].grads.len() {
        let mut params = Vec::new();
        let mut grads = Vec::new();
        for tensor in &mut tensors {
            let (of_params, of_grads) = (tensor.formats.params, tensor.formats.grads);
            params.push(SliceMut::of_bytes(of_params, tensor.params.bytes_mut()).expect("numbers"));
            grads.push(Slice::of_bytes(of_grads, tensor.grads[step].bytes()).expect("numbers"));
        }
        optimizer.step_slices(&mut params, &grads).expect("a step");
    }
    tensors.iter().map(|tensor| tensor.params.bytes().to_vec()).collect()
}

/// Values near 1 of either sign, each another.
fn spread(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 131 + seed * 57) % 211) as f32 / 105.0 - 1.0).collect()
}

fn data(desk: &Desk, file: &str, name: &str) -> Vec<u8> {
    let bytes = desk.read(file);
    SafeTensors::deserialize(&bytes).expect("a sound file").tensor(name).expect(name).data().to_vec()
}

/// Lays a tensor out in `p.safetensors` and three files of gradients, which are `grads`.
fn lay_out(desk: &Desk, len: usize, params: Dtype, grads: Dtype) -> Tensor {
    desk.formatted("p.safetensors", &[("w", params, &[len], &spread(len, 0))]);
    for step in 1..4 {
        desk.formatted(&format!("g{step}"), &[("w", grads, &[len], &spread(len, step))]);
    }
    let given = (1..4).map(|step| Aligned::new(&encoded(grads, &spread(len, step)))).collect();
    let params = Aligned::new(&encoded(params, &spread(len, 0)));
    Tensor { name: "w", formats: Formats::default(), params, grads: given }
}

/// Three steps on a device.
fn three(device: &str) -> String {
    format!(
        "apply --device {device} --config optim.toml --params p.safetensors --grads g1 g2 g3 --out-params {device}.safetensors"
    )
}

const LR: &str = "rule = \"adam\"\nlr = 0.01\n";

#[test]
fn a_step_is_the_librarys_to_the_bit_in_every_pair_of_formats_and_an_adapters_within_them() {
    for (params, of_params) in DTYPES {
        for (grads, of_grads) in DTYPES {
            for len in [1, 3, 257] {
                let desk = Desk::new();
                desk.text("optim.toml", LR);
                let mut tensor = lay_out(&desk, len, params, grads);
                tensor.formats = Formats { params: of_params, grads: of_grads, ..Formats::default() };
                let expected = twin(Chain::default(), vec![tensor]);
                for device in devices() {
                    desk.succeeds(&three(device));
                    let out = desk.read(&format!("{device}.safetensors"));
                    assert_eq!(head(&out), head(&desk.read("p.safetensors")), "{device} {params} {grads} {len}");
                    desk.succeeds(&format!("compare cpu.safetensors {device}.safetensors --before p.safetensors"));
                }
                assert_eq!(data(&desk, "cpu.safetensors", "w"), expected[0], "{params} {grads} {len}");
                assert_ne!(data(&desk, "p.safetensors", "w"), expected[0], "{params} {grads} {len}");
            }
        }
    }
}

/// What a table `[format]` says, and the formats that it means.
fn tables() -> Vec<(&'static str, Formats)> {
    let bf16 = Formats { params: Format::Bf16, grads: Format::Bf16, ..Formats::default() };
    let slots = || [("exp_avg".into(), StateFormat::Q8), ("exp_avg_sq".into(), StateFormat::Bf16)].into();
    vec![
        ("master = true", Formats { master: true, ..bf16.clone() }),
        ("rounding = \"kahan\"", Formats { rounding: Rounding::Kahan, ..bf16.clone() }),
        ("rounding = \"stochastic\"\nseed = 9", Formats { rounding: Rounding::Stochastic, seed: 9, ..bf16.clone() }),
        ("state = \"bf16\"", Formats { state: StateFormat::Bf16, ..bf16.clone() }),
        ("state = \"q8\"\nq8_min = 0", Formats { state: StateFormat::Q8, q8_min: 0, ..bf16.clone() }),
        (
            "state = { exp_avg = \"q8\", exp_avg_sq = \"bf16\" }\nq8_min = 100\nmaster = true",
            Formats { slots: slots(), q8_min: 100, master: true, ..bf16.clone() },
        ),
        (
            "state = \"q8\"\nq8_min = 1\nq8_zero = \"reference\"\nrounding = \"stochastic\"",
            Formats {
                state: StateFormat::Q8,
                q8_min: 1,
                q8_zero: wgpu_optim::format::Q8Zero::Reference,
                rounding: Rounding::Stochastic,
                ..bf16
            },
        ),
    ]
}

#[test]
fn every_key_is_the_librarys_to_the_bit() {
    for (table, formats) in tables() {
        let desk = Desk::new();
        desk.text("optim.toml", &format!("{LR}[format]\n{table}\n"));
        let tensor = Tensor { formats, ..lay_out(&desk, 777, Dtype::BF16, Dtype::BF16) };
        let expected = twin(Chain::default(), vec![tensor]);
        desk.succeeds(&three("cpu"));
        assert_eq!(data(&desk, "cpu.safetensors", "w"), expected[0], "{table}");
    }
}

#[test]
fn formats_on_an_adapter_are_those_of_the_cpu() {
    for (table, _) in tables().iter().filter(|_| devices().len() > 1) {
        let desk = Desk::new();
        desk.text("optim.toml", &format!("{LR}[format]\n{table}\n"));
        lay_out(&desk, 777, Dtype::BF16, Dtype::BF16);
        for device in devices() {
            desk.succeeds(&three(device));
        }
        desk.succeeds("compare cpu.safetensors gpu.safetensors --before p.safetensors");
    }
}

/// Tensors of every format, with gradients of every format, in one file each, beside one of integers.
fn mixed(desk: &Desk) -> Vec<Tensor> {
    let (names, ids) = (["a", "b", "c", "d"], [7u8; 24]);
    let pairs = [(0, 0), (1, 2), (2, 0), (2, 2)];
    let lens = [3, 5, 301, 64];
    let of = |seed: usize, grads: bool| -> Vec<(Dtype, usize, Vec<u8>)> {
        let each = pairs.iter().zip(lens).enumerate();
        each.map(|(i, (pair, len))| {
            let dtype = DTYPES[if grads { pair.1 } else { pair.0 }].0;
            (dtype, len, encoded(dtype, &spread(len, 5 * seed + i)))
        })
        .collect()
    };
    let write = |file: &str, tensors: &[(Dtype, usize, Vec<u8>)], with_ids: bool| {
        let shapes: Vec<[usize; 1]> = tensors.iter().map(|(_, len, _)| [*len]).collect();
        let mut raw: Vec<crate::desk::Raw<'_>> = Vec::new();
        for ((name, (dtype, _, bytes)), shape) in names.iter().zip(tensors).zip(&shapes) {
            raw.push((name, *dtype, shape, bytes));
        }
        raw.extend(with_ids.then_some(("ids", Dtype::I64, &[3][..], &ids[..])));
        desk.raw(file, &raw, Some(&[("format", "pt")]));
    };
    write("p.safetensors", &of(0, false), true);
    (1..4).for_each(|step| write(&format!("g{step}"), &of(step, true), false));
    let tensor = |i: usize| {
        let (params, grads) = (DTYPES[pairs[i].0].1, DTYPES[pairs[i].1].1);
        Tensor {
            name: names[i],
            formats: Formats { params, grads, ..Formats::default() },
            params: Aligned::new(&of(0, false)[i].2),
            grads: (1..4).map(|step| Aligned::new(&of(step, true)[i].2)).collect(),
        }
    };
    (0..4).map(tensor).collect()
}

#[test]
fn formats_may_be_mixed_in_a_file_and_clipped_together() {
    let desk = Desk::new();
    let tensors = mixed(&desk);
    desk.text("optim.toml", &format!("{LR}[clip]\nglobal_norm = 0.5\n"));
    let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name).collect();
    let chain = Chain { clip: Some(Clip::global_norm(0.5)), ..Chain::default() };
    let expected = twin(chain, tensors);
    for device in devices() {
        let told = desk.succeeds(&three(device)).stdout;
        assert!(told.contains("4 tensors (373 elements), 3 steps of adam"), "{told}");
        let out = desk.read(&format!("{device}.safetensors"));
        assert_eq!(head(&out), head(&desk.read("p.safetensors")), "{device}");
        assert_eq!(data(&desk, &format!("{device}.safetensors"), "ids"), [7; 24], "{device}");
        desk.succeeds(&format!("compare cpu.safetensors {device}.safetensors --before p.safetensors"));
    }
    // The norm is summed up in another order than the twin's, so its last bit may differ, and a rounding with it.
    for (name, expected) in names.iter().zip(expected) {
        let dtype =
            SafeTensors::deserialize(&desk.read("p.safetensors")).expect("a file").tensor(name).expect("it").dtype();
        let (found, expected) = (decoded(dtype, &data(&desk, "cpu.safetensors", name)), decoded(dtype, &expected));
        let last = if dtype == Dtype::F32 { 1e-6 } else { 1.0 / 128.0 };
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= last * b.abs() + 1e-6), "{name}");
    }
}

#[test]
fn lists_and_schedules_reach_every_format_of_a_group() {
    let desk = Desk::new();
    mixed(&desk);
    for device in devices() {
        let (all, once) = (three(device), three(device).replace("g1 g2 g3", "g1"));
        desk.text("optim.toml", LR);
        desk.succeeds(&once);
        let out = format!("{device}.safetensors");
        let expected = desk.read(&out);
        assert!(expected != desk.read("p.safetensors"));
        // With an lr of 0, steps leave parameters as they are.
        for then in ["lr = [0.01, 0, 0]\n", "lr = 0.01\n[schedule]\nkind = \"step\"\nstep_size = 1\ngamma = 0\n"] {
            desk.text("optim.toml", &format!("rule = \"adam\"\n{then}"));
            desk.succeeds(&all);
            assert!(desk.read(&out) == expected, "{device}: {then}");
        }
    }
}

#[test]
fn parameters_are_never_cast() {
    let desk = Desk::new();
    lay_out(&desk, 3, Dtype::BF16, Dtype::BF16);
    let line = three("cpu");
    for (word, stored) in [("f32", "F32"), ("f16", "F16")] {
        desk.text("optim.toml", &format!("rule = \"adam\"\n[format]\nparams = {word:?}\n"));
        let asked =
            format!("optim.toml has params = {word:?} in the [format] of all tensors; parameters are never cast");
        let todo = format!("leave params out to step them as they are, or store them as {stored}");
        desk.refuses(&line, 1, &["p.safetensors: \"w\" is BF16, and", &asked, &todo]);
    }
    desk.text("optim.toml", "rule = \"adam\"\n[format]\nparams = \"bf16\"\n");
    desk.succeeds(&line);
}

#[test]
fn gradients_of_several_formats_are_cast_where_the_config_says_so_and_refused_where_not() {
    let desk = Desk::new();
    desk.text("optim.toml", LR);
    lay_out(&desk, 5, Dtype::BF16, Dtype::BF16);
    desk.formatted("g2", &[("w", Dtype::F16, &[5], &spread(5, 2))]);
    let parts =
        ["g2: gradient \"w\" is F16, in a file before it BF16; name one of them in [format], as in grads = \"f32\""];
    desk.refuses(&three("cpu"), 1, &parts);
    desk.text("optim.toml", &format!("{LR}[format]\ngrads = \"f32\"\n"));
    // To f32 nothing is lost, so nothing is told.
    assert_eq!(desk.succeeds(&three("cpu")).stderr, "");
    let halves = data(&desk, "cpu.safetensors", "w");
    for (file, dtype) in [("g1", Dtype::BF16), ("g2", Dtype::F16), ("g3", Dtype::BF16)] {
        desk.formatted(file, &[("w", Dtype::F32, &[5], &decoded(dtype, &data(&desk, file, "w")))]);
    }
    desk.succeeds(&three("cpu"));
    assert_eq!(data(&desk, "cpu.safetensors", "w"), halves);
}

#[test]
fn what_a_cast_of_gradients_loses_is_told() {
    let desk = Desk::new();
    desk.text("optim.toml", &format!("{LR}[format]\ngrads = \"bf16\"\n"));
    let told = desk.succeeds(STEP).stderr;
    // 0.1, 0.2, -0.3 and 1e-8 are no numbers of bf16; 7, 1 and -1 are.
    let note = "note: 4 of 7 gradients that were cast, as [format] says, are other numbers now, first in \"w\" of g0";
    assert!(told.contains(note), "{told}");
    desk.text("optim.toml", &format!("{LR}[format]\ngrads = \"f16\"\n"));
    desk.tensors("g0.safetensors", &[("w", &[5], &[1.0, 1e6, 0.5, f32::NAN, 2.0]), ("b", &[2], &[1.0, -1.0])]);
    let told = desk.succeeds(STEP).stderr;
    assert!(told.contains("warning: the gradients hold 1 NaN and 1 infinite values, first in \"w\""), "{told}");
    let warning = "warning: 1 of 7 gradients that were cast, as [format] says, are other numbers now, first in \"w\" of \
                   g0.safetensors; 1 of them are infinite";
    assert!(told.contains(warning), "{told}");
}

#[test]
fn gradients_of_16_bits_that_are_not_finite_are_told() {
    let desk = Desk::new();
    lay_out(&desk, 3, Dtype::F16, Dtype::F16);
    desk.formatted("g2", &[("w", Dtype::F16, &[3], &[f32::NAN, f32::NEG_INFINITY, 1.0])]);
    let told = desk.succeeds(&three("cpu")).stderr;
    assert!(told.contains("warning: the gradients hold 1 NaN and 1 infinite values, first in \"w\" of g2"), "{told}");
}

#[test]
fn a_norm_over_a_group_is_over_all_formats_in_it() {
    let desk = Desk::new();
    mixed(&desk);
    for device in devices() {
        // One group has every tensor, so its norm is that of all.
        for over in ["global", "group", "tensor"] {
            desk.text("optim.toml", &format!("{LR}[clip]\n{over}_norm = 0.5\n"));
            desk.succeeds(&three(device));
            desk.bytes(over, &desk.read(&format!("{device}.safetensors")));
        }
        desk.succeeds("compare global group --before p.safetensors");
        assert!(desk.read("tensor") != desk.read("global"), "{device}");
    }
}

#[test]
fn sixteen_bits_of_half_an_element_are_refused_wherever_they_are_read() {
    let desk = Desk::new();
    let file = |dtype: &str| {
        let header = format!("{{\"w\":{{\"dtype\":\"{dtype}\",\"shape\":[5],\"data_offsets\":[0,9]}}}}");
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 9]].concat()
    };
    for dtype in ["F16", "BF16"] {
        desk.bytes("odd", &file(dtype));
        let told = format!("odd: tensor \"w\" has shape [5] of {dtype}, which is 10 bytes, but bytes 0..9");
        for input in ["p.safetensors", "g0.safetensors"] {
            desk.refuses(&STEP.replace(input, "odd"), 1, &[&told]);
        }
        desk.refuses(&format!("{STEP} --state odd"), 1, &[&told]);
    }
}
