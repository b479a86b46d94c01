//! Checksums of a file's bytes, kept in its own header.
//!
//! A value of the metadata, `crc32`, holds 8 hex digits for the head of the file (as it would be with zeros for this
//! value) and 8 for the data of each tensor, in the order of their data. It stands at the same place in every file, so
//! that it can be put there when the data have been written, which are not in memory before. CRC-32 is that of zlib, so
//! that a script can make it; every change of up to 32 neighbouring bits is found, any other but one in 2^32.

use crc32fast::hash;

use super::Error;
use crate::safetensors::Archive;

/// The key in the metadata, which comes first there.
pub const KEY: &str = "crc32";
const DIGITS: usize = 8;
/// What stands between a file's first 8 bytes and the value.
const BEFORE: &[u8] = br#"{"__metadata__":{"crc32":""#;
/// The first byte of the value in the file.
pub const AT: usize = 8 + BEFORE.len();

/// The value for this many tensors before anything is known.
pub fn placeholder(tensors: usize) -> String {
    "0".repeat((tensors + 1) * DIGITS)
}

/// The value, for a head that has the [`placeholder`] and the sums of the tensors.
pub fn value(head: &[u8], tensors: &[u32]) -> String {
    let sums = [hash(head)].into_iter().chain(tensors.iter().copied());
    sums.map(|sum| format!("{sum:08x}")).collect()
}

/// Refuses a file whose bytes are not those that were written. Reads all of it.
///
/// # Errors
/// [`Error::Damaged`], [`Error::Unsound`], [`Error::File`].
pub fn verify(archive: &Archive) -> Result<(), Error> {
    let Some(value) = archive.metadata(KEY) else { return Ok(()) };
    let sums = parse(value, archive.entries().len() + 1).ok_or_else(|| Error::Unsound {
        path: archive.path().into(),
        message: format!(
            "{KEY} holds {} digits, expected {DIGITS} in lower case for the header and each tensor",
            value.len()
        ),
    })?;
    let mut head = archive.head().to_vec();
    if let Some(digits) = head.get_mut(AT..AT + value.len()) {
        digits.fill(b'0');
    }
    check(archive, "the header", sums[0], hash(&head))?;
    for (entry, expected) in archive.entries().iter().zip(&sums[1..]) {
        let mut sum = crc32fast::Hasher::new();
        archive.read_each::<Error>(entry, |chunk| {
            sum.update(chunk);
            Ok(())
        })?;
        check(archive, &format!("tensor {:?}", entry.name), *expected, sum.finalize())?;
    }
    Ok(())
}

fn check(archive: &Archive, what: &str, expected: u32, found: u32) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Damaged { path: archive.path().into(), what: what.into(), expected, found })
}

fn parse(value: &str, sums: usize) -> Option<Vec<u32>> {
    let digits = value.as_bytes();
    // Digits as they are written, and nothing else that means the same.
    if digits.len() != sums * DIGITS || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let sum = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    digits.chunks_exact(DIGITS).map(sum).collect()
}
