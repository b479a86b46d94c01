//! The error that exits with 2: what was typed, or written in the config, is wrong. Any other error is a failed
//! job and exits with 1.

use std::fmt;

/// Marks an error as the person's to mend.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Whether the error, or what caused it, is one of usage.
pub fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<Usage>())
}

/// An `anyhow::Error` of usage, from a format string.
macro_rules! usage {
    ($($part:tt)*) => {
        anyhow::Error::new($crate::usage::Usage(format!($($part)*)))
    };
}
pub(crate) use usage;
