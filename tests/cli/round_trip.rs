//! Any sound file goes through: what is not stepped is what it was, and the safetensors crate reads what comes out.

use std::collections::BTreeMap;

use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use crate::desk::{Desk, STEP, head};

#[derive(Clone, Debug)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    graded: bool,
    seed: u8,
}

impl Tensor {
    fn bytes(&self) -> Vec<u8> {
        let size = self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8;
        // No byte is above 0x3f, so that an F32 is a number, and not a large one.
        (0..size).map(|i| (i as u8).wrapping_mul(31).wrapping_add(self.seed) & 0x3f).collect()
    }
}

fn tensor() -> impl Strategy<Value = Tensor> {
    let dtypes = vec![Dtype::F32, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I64, Dtype::BOOL, Dtype::F64, Dtype::U8];
    let shape = prop::collection::vec(0usize..6, 0..4);
    (prop::sample::select(dtypes), shape, any::<bool>(), any::<u8>()).prop_map(|(dtype, shape, graded, seed)| Tensor {
        dtype,
        shape,
        graded: graded && dtype == Dtype::F32,
        seed,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_file_comes_through(
        tensors in prop::collection::btree_map("[a-z.\"\\\\é/ ]{0,8}", tensor(), 0..6),
    ) {
        let desk = Desk::new();
        let bytes: BTreeMap<&str, Vec<u8>> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.bytes())).collect();
        let write = |file: &str, keep: &dyn Fn(&Tensor) -> bool| {
            let raw: Vec<_> = tensors
                .iter()
                .filter(|(_, tensor)| keep(tensor))
                .map(|(name, t)| (name.as_str(), t.dtype, t.shape.as_slice(), bytes[name.as_str()].as_slice()))
                .collect();
            desk.raw(file, &raw, Some(&[("made", "by a test")]));
        };
        write("p.safetensors", &|_| true);
        write("g0.safetensors", &|tensor| tensor.graded);
        desk.succeeds(&format!("{STEP} --out-state s0.safetensors"));
        let (before, after, state) = (desk.read("p.safetensors"), desk.read("out.safetensors"), desk.read("s0.safetensors"));
        prop_assert_eq!(head(&before), head(&after));
        let after = SafeTensors::deserialize(&after).expect("a sound file");
        let state = SafeTensors::deserialize(&state).expect("a sound file");
        for (name, tensor) in &tensors {
            let stepped = tensor.graded && !bytes[name.as_str()].is_empty();
            let same = after.tensor(name).expect("a tensor").data() == bytes[name.as_str()].as_slice();
            prop_assert!(same != stepped, "{:?}", name);
            let moment = state.tensor(&format!("state.{name}.exp_avg"));
            prop_assert_eq!(moment.is_ok(), stepped);
            if let Ok(moment) = moment {
                prop_assert_eq!(moment.shape(), tensor.shape.as_slice());
            }
        }
        // What was written is what is read.
        desk.succeeds(&format!("{STEP} --state s0.safetensors --out-state s1.safetensors"));
    }
}
