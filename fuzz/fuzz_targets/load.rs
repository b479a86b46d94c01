#![no_main]
//! Any bytes as a checkpoint: refused without a trace, or taken.

use libfuzzer_sys::fuzz_target;
use wgpu_optim::checkpoint::{Checkpoint, Load};
use wgpu_optim::format::{Formats, StateFormat};
use wgpu_optim::{Adam, Chain, cpu};

fuzz_target!(|data: &[u8]| {
    try_to_load(data.to_vec());
    if let Some(mended) = mended(data) {
        try_to_load(mended);
    }
});

fn try_to_load(bytes: Vec<u8>) {
    let Ok(checkpoint) = Checkpoint::from_bytes("fuzz", bytes) else { return };
    for partial in [false, true] {
        for formats in [Formats::default(), codes()] {
            load(&checkpoint, formats, partial);
        }
    }
}

/// State in 8 bits.
fn codes() -> Formats {
    Formats { state: StateFormat::Q8, q8_min: 1, ..Formats::default() }
}

fn load(checkpoint: &Checkpoint, formats: Formats, partial: bool) {
    let mut optimizer = cpu::Optimizer::<Adam, f32>::with_chain(Chain::default()).unwrap();
    optimizer.add_group_with(Adam::PYTORCH, formats, [("w", 2)]).unwrap();
    let mut params = [0.5; 2];
    optimizer.step(&mut [&mut params], &[&[1.0, 2.0]]).unwrap();
    let before = world(&optimizer, &params);
    let mut slices: [&mut [f32]; 1] = [&mut params];
    let cast: &[&str] = if partial { &["params", "exp_avg"] } else { &[] };
    let load = Load { params: Some(slices.as_mut_slice()), extras: &["a"], retune: !partial, cast };
    let loaded = if partial { optimizer.load_partial(checkpoint, load) } else { optimizer.load(checkpoint, load) };
    if loaded.is_err() {
        assert_eq!(world(&optimizer, &params), before, "refused, and something has changed");
    }
    optimizer.step(&mut [&mut params], &[&[1.0, 2.0]]).unwrap();
}

fn world(optimizer: &cpu::Optimizer<Adam, f32>, params: &[f32]) -> (Vec<u32>, u64, String) {
    let slots = ["exp_avg", "exp_avg_sq"].map(|slot| optimizer.read_state("w", slot).unwrap());
    let values = slots.concat().into_iter().chain(params.iter().copied());
    let settings = format!("{:?}", optimizer.groups());
    (values.map(f32::to_bits).collect(), optimizer.step_of("w").unwrap(), settings)
}

/// The bytes with the checksums that they should have, where there is room for one of each tensor.
fn mended(data: &[u8]) -> Option<Vec<u8>> {
    let archive = wgpu_optim::safetensors::Archive::from_bytes("fuzz", data.to_vec()).ok()?;
    let (head, digits) = (archive.head().len(), 8 * (archive.entries().len() + 1));
    let at = 8 + br#"{"__metadata__":{"crc32":""#.len();
    if archive.metadata("crc32")?.len() != digits || at + digits > head {
        return None;
    }
    let mut bytes = data.to_vec();
    bytes[at..at + digits].fill(b'0');
    let mut sums = format!("{:08x}", crc32fast::hash(&bytes[..head]));
    for entry in archive.entries() {
        let start = head + entry.start as usize;
        sums += &format!("{:08x}", crc32fast::hash(&bytes[start..start + entry.size() as usize]));
    }
    bytes[at..at + digits].copy_from_slice(sums.as_bytes());
    Some(bytes)
}
