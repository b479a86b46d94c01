//! The head of a file to be written.

use serde_json::{Map, Value};

use super::header::{MAX_HEADER, METADATA};
use super::{Dtype, Error};

/// The first bytes of a file with this metadata and these tensors, given as names, types and shapes in the order of
/// their data. Types are of whole bytes.
///
/// # Errors
/// [`Error::HeaderTooLong`].
pub fn head<'a>(
    metadata: Map<String, Value>,
    tensors: impl IntoIterator<Item = (&'a str, Dtype, &'a [u64])>,
) -> Result<Vec<u8>, Error> {
    let mut header = Map::new();
    header.insert(METADATA.into(), metadata.into());
    let mut end = 0;
    for (name, dtype, shape) in tensors {
        let start = end;
        end += shape.iter().product::<u64>() * (dtype.bits / 8);
        let entry = serde_json::json!({"dtype": dtype.to_string(), "shape": shape, "data_offsets": [start, end]});
        header.insert(name.into(), entry);
    }
    let mut text = Value::from(header).to_string().into_bytes();
    // Data start at a multiple of 8, so that a reader may map them.
    text.resize(text.len().next_multiple_of(8), b' ');
    let size = text.len() as u64;
    if size > MAX_HEADER {
        return Err(Error::HeaderTooLong { size, limit: MAX_HEADER });
    }
    Ok([&size.to_le_bytes(), text.as_slice()].concat())
}

#[cfg(test)]
mod tests {
    use super::super::header::Header;
    use super::*;

    #[test]
    fn a_head_that_is_written_is_read_back() {
        let mut metadata = Map::new();
        metadata.insert("k\n\"".into(), "v".into());
        let f32 = Dtype::F32;
        let tensors = [
            ("a", f32, &[2u64, 3][..]),
            ("scalar", f32, &[]),
            ("odd", Dtype::BF16, &[3]),
            ("none", Dtype::U8, &[0, 7]),
        ];
        let head = head(metadata, tensors).unwrap();
        let header = Header::parse(&head[8..], 34).unwrap();
        assert_eq!(head.len() % 8, 0);
        assert_eq!(header.metadata["k\n\""], "v");
        let found: Vec<_> = header.entries.iter().map(|e| (e.name.as_str(), e.start, e.size())).collect();
        assert_eq!(found, [("a", 0, 24), ("scalar", 24, 4), ("odd", 28, 6), ("none", 34, 0)]);
    }
}
