//! Files that were changed: whatever the change, it is noticed, nothing panics, and nothing is half applied.

use proptest::prelude::*;
use wgpu_optim::checkpoint::{Checkpoint, Error};

use crate::run::{LOAD, Run, World, saved, small};

/// What is loaded of some bytes, and what the optimizer is then.
fn load(bytes: Vec<u8>, partial: bool) -> (Result<(), Error>, World, World) {
    let mut run = small();
    run.step(7);
    let before = run.world();
    let loaded = Checkpoint::from_bytes("changed", bytes).and_then(|file| run.load_with(&file, LOAD, partial));
    (loaded.map(drop), before, run.world())
}

fn refused(bytes: Vec<u8>) -> Result<(), TestCaseError> {
    for partial in [false, true] {
        let (loaded, before, after) = load(bytes.clone(), partial);
        prop_assert!(loaded.is_err(), "a changed file was taken");
        prop_assert_eq!(before, after);
    }
    Ok(())
}

#[test]
fn the_file_itself_is_taken() {
    let (run, bytes) = saved();
    let (loaded, before, after) = load(bytes, false);
    loaded.unwrap();
    assert!(before != after);
    assert_eq!(after, run.world());
}

/// Every bit of the file, none left out: header, checksums and data.
#[test]
fn every_single_bit_counts() {
    let (_, bytes) = saved();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let (loaded, before, after) = load(changed, false);
        assert!(loaded.is_err(), "bit {bit} can be flipped");
        assert!(before == after, "bit {bit} was refused and has changed something");
    }
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let (_, bytes) = saved();
    for end in 0..bytes.len() {
        let (loaded, before, after) = load(bytes[..end].to_vec(), false);
        assert!(loaded.is_err() && before == after, "the first {end} bytes are taken");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_that_were_written_over_are_noticed(at in any::<prop::sample::Index>(), new in prop::collection::vec(any::<u8>(), 1..64)) {
        let (_, bytes) = saved();
        let mut changed = bytes.clone();
        let at = at.index(changed.len());
        let len = new.len().min(changed.len() - at);
        changed[at..at + len].copy_from_slice(&new[..len]);
        prop_assume!(changed != bytes);
        refused(changed)?;
    }

    #[test]
    fn parts_that_were_moved_are_noticed(
        from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(), len in 1usize..200, insert in any::<bool>(),
    ) {
        let (_, bytes) = saved();
        let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
        let part = bytes[from..(from + len).min(bytes.len())].to_vec();
        let mut changed = bytes.clone();
        let end = if insert { to } else { (to + part.len()).min(changed.len()) };
        changed.splice(to..end, part);
        prop_assume!(changed != bytes);
        refused(changed)?;
    }

    #[test]
    fn a_header_with_other_words_is_noticed(
        word in prop::sample::select(vec!["steps", "frozen", "w", "groups", "F32", "shape", "state", "lr", "adam", "2", "5", "[", "}", "true", "extras"]),
        new in "[a-z0-9\\[\\]{}\",:. -]{0,6}", nth in 0usize..8,
    ) {
        let (_, bytes) = saved();
        let places: Vec<usize> = bytes.windows(word.len()).enumerate().filter(|(_, w)| *w == word.as_bytes()).map(|(i, _)| i).collect();
        prop_assume!(nth < places.len());
        let mut changed = bytes.clone();
        changed.splice(places[nth]..places[nth] + word.len(), new.bytes());
        // With the length of the header set right, so that it is read.
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) + new.len() as u64 - word.len() as u64;
        changed[..8].copy_from_slice(&header.to_le_bytes());
        prop_assume!(changed != bytes);
        refused(changed)?;
    }
}
