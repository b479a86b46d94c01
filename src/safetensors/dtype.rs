//! The types that a tensor's elements can have.

use std::fmt;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dtype {
    name: &'static str,
    /// Bits of an element.
    pub bits: u64,
}

impl Dtype {
    /// Single precision.
    pub const F32: Self = Self { name: "F32", bits: 32 };
    /// Half precision.
    pub const F16: Self = Self { name: "F16", bits: 16 };
    /// The upper half of an F32.
    pub const BF16: Self = Self { name: "BF16", bits: 16 };
    /// Bytes, as which codes of 8 bits are stored.
    pub const U8: Self = Self { name: "U8", bits: 8 };

    /// Every type of the safetensors crate; those that are only carried through need no more than their size.
    const ALL: &[Self] = &[
        Self { name: "BOOL", bits: 8 },
        Self { name: "F4", bits: 4 },
        Self { name: "F6_E2M3", bits: 6 },
        Self { name: "F6_E3M2", bits: 6 },
        Self::U8,
        Self { name: "I8", bits: 8 },
        Self { name: "F8_E5M2", bits: 8 },
        Self { name: "F8_E4M3", bits: 8 },
        Self { name: "F8_E8M0", bits: 8 },
        Self { name: "F8_E4M3FNUZ", bits: 8 },
        Self { name: "F8_E5M2FNUZ", bits: 8 },
        Self { name: "I16", bits: 16 },
        Self { name: "U16", bits: 16 },
        Self::F16,
        Self::BF16,
        Self { name: "I32", bits: 32 },
        Self { name: "U32", bits: 32 },
        Self::F32,
        Self { name: "C64", bits: 64 },
        Self { name: "F64", bits: 64 },
        Self { name: "I64", bits: 64 },
        Self { name: "U64", bits: 64 },
    ];
}

impl Dtype {
    /// The type of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|dtype| dtype.name == name).copied()
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
