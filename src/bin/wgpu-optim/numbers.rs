//! Numbers of a file, in the format in which it holds them.

use anyhow::{Result, bail};
use wgpu_optim::format::halves::Half;
use wgpu_optim::format::{Format, Rounding, Storage};
use wgpu_optim::safetensors::{Archive, Dtype, Entry};

/// The values of a tensor.
#[derive(Clone, Debug)]
pub enum Numbers {
    F32(Vec<f32>),
    Halves(Half, Vec<u16>),
}

/// What became of values that were cast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    pub values: u64,
    /// Those that are another number now.
    pub changed: u64,
    /// Those among them that were finite and are not.
    pub infinite: u64,
}

/// The format that parameters or gradients of a type are stepped in; `None` where they cannot be stepped.
pub fn format_of(dtype: Dtype) -> Option<Format> {
    [Format::F32, Format::F16, Format::Bf16].into_iter().find(|format| dtype_of(format.storage()) == dtype)
}

/// The type that files have for what lies like this.
pub fn dtype_of(storage: Storage) -> Dtype {
    match storage {
        Storage::F32 => Dtype::F32,
        Storage::F16 => Dtype::F16,
        Storage::Bf16 => Dtype::BF16,
        Storage::Q8Signed | Storage::Q8Unsigned => Dtype::U8,
    }
}

impl Numbers {
    /// Reads a tensor.
    ///
    /// # Errors
    /// For a type that is not stepped, and where it cannot be read.
    pub fn read(archive: &Archive, entry: &Entry) -> Result<Self> {
        Ok(match format_of(entry.dtype) {
            Some(Format::F32) => Self::F32(archive.values(entry)?),
            Some(Format::F16) => Self::Halves(Half::F16, archive.elements(entry)?),
            Some(Format::Bf16) => Self::Halves(Half::Bf16, archive.elements(entry)?),
            None => bail!("{}: {:?} is {}, which is not stepped", archive.path(), entry.name, entry.dtype),
        })
    }

    /// None of them.
    pub fn none(format: Format) -> Self {
        match half_of(format) {
            None => Self::F32(Vec::new()),
            Some(half) => Self::Halves(half, Vec::new()),
        }
    }

    pub fn format(&self) -> Format {
        match self {
            Self::F32(_) => Format::F32,
            Self::Halves(Half::F16, _) => Format::F16,
            Self::Halves(Half::Bf16, _) => Format::Bf16,
        }
    }

    /// As a file has them.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::Halves(_, codes) => bytemuck::cast_slice(codes),
        }
    }

    /// Each as the `f32` that it is.
    pub fn widened(&self) -> impl Iterator<Item = f32> {
        let (values, halves) = match self {
            Self::F32(values) => (values.as_slice(), None),
            Self::Halves(half, codes) => (&[][..], Some((*half, codes.as_slice()))),
        };
        let halves = halves.into_iter().flat_map(|(half, codes)| codes.iter().map(move |code| half.widen(*code)));
        values.iter().copied().chain(halves)
    }

    /// The same numbers in another format, to the nearest where it holds fewer.
    pub fn cast(self, to: Format) -> (Self, Loss) {
        if self.format() == to {
            return (self, Loss::default());
        }
        let Some(half) = half_of(to) else { return (Self::F32(self.widened().collect()), Loss::default()) };
        let mut loss = Loss::default();
        let codes = self.widened().map(|x| {
            let code = half.narrow(x, Rounding::Nearest, 0);
            loss.count(x, half.widen(code));
            code
        });
        let codes = codes.collect();
        (Self::Halves(half, codes), loss)
    }
}

impl Loss {
    fn count(&mut self, from: f32, to: f32) {
        self.values += 1;
        self.changed += u64::from(from != to && !from.is_nan());
        self.infinite += u64::from(from.is_finite() && to.is_infinite());
    }

    /// This and another.
    pub fn and(self, other: Self) -> Self {
        Self {
            values: self.values + other.values,
            changed: self.changed + other.changed,
            infinite: self.infinite + other.infinite,
        }
    }
}

/// A format of 16 bits as such.
pub fn half_of(format: Format) -> Option<Half> {
    match format {
        Format::F32 => None,
        Format::F16 => Some(Half::F16),
        Format::Bf16 => Some(Half::Bf16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_in_a_cast_is_counted() {
        let values = vec![1.0, -0.5, 1.0 + f32::EPSILON, f32::NAN, f32::INFINITY, 1e38, 1e-30];
        let (bf16, loss) = Numbers::F32(values.clone()).cast(Format::Bf16);
        assert_eq!(loss, Loss { values: 7, changed: 3, infinite: 0 });
        let (f16, loss) = Numbers::F32(values).cast(Format::F16);
        assert_eq!(loss, Loss { values: 7, changed: 3, infinite: 1 });
        for halves in [bf16, f16] {
            let (wide, loss) = halves.clone().cast(Format::F32);
            assert_eq!(loss, Loss::default());
            let (back, loss) = wide.cast(halves.format());
            assert_eq!((loss.changed, back.bytes()), (0, halves.bytes()));
        }
    }
}
