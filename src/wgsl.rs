//! WGSL's built-ins under their own names, so that a rule's update is one text in two tongues.
//!
//! The lines between `// <update>` marks stand letter for letter in `src/rule/NAME.rs` and
//! `shaders/rule/NAME.wgsl`. There `Lane` is `vec4<f32>` or `f32`; here it is `f32` (the twin, which does what
//! the shader does) or `f64` (the oracle).

use std::fmt::{Debug, LowerExp};
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Shl, Shr, Sub};

/// The numbers a rule can be computed in: `f32` and `f64`.
pub trait Real:
    Copy
    + Debug
    + LowerExp
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + bytemuck::Pod
    + 'static
{
    /// The nearest number of this type.
    fn from_f64(x: f64) -> Self;
    /// The same number.
    fn to_f64(self) -> f64;
    /// The root, correctly rounded.
    fn square_root(self) -> Self;
    /// e to this power.
    fn exponential(self) -> Self;
    /// Whether no bit is set.
    fn is_plus_zero(self) -> bool;
}

impl Real for f32 {
    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self.into()
    }
    #[inline(always)]
    fn square_root(self) -> Self {
        self.sqrt()
    }
    #[inline(always)]
    fn exponential(self) -> Self {
        self.exp()
    }
    #[inline(always)]
    fn is_plus_zero(self) -> bool {
        self.to_bits() == 0
    }
}

impl Real for f64 {
    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn square_root(self) -> Self {
        self.sqrt()
    }
    #[inline(always)]
    fn exponential(self) -> Self {
        self.exp()
    }
    #[inline(always)]
    fn is_plus_zero(self) -> bool {
        self.to_bits() == 0
    }
}

/// `Lane(x)`: every lane holds `x`.
#[allow(non_snake_case, reason = "WGSL's spelling of the constructor")]
#[inline(always)]
pub fn Lane<T: Real>(x: f64) -> T {
    T::from_f64(x)
}

/// `select(f, t, condition)`: WGSL's order, the value for false first.
#[inline(always)]
pub fn select<T>(f: T, t: T, condition: bool) -> T {
    if condition { t } else { f }
}

/// The square root.
#[inline(always)]
pub fn sqrt<T: Real>(x: T) -> T {
    x.square_root()
}

/// e to this power.
#[inline(always)]
pub fn exp<T: Real>(x: T) -> T {
    x.exponential()
}

/// The smaller of two numbers; as in WGSL, either may come back where one is NaN.
#[inline(always)]
pub fn min<T: PartialOrd>(a: T, b: T) -> T {
    if b < a { b } else { a }
}

/// The larger of two numbers; as in WGSL, either may come back where one is NaN.
#[inline(always)]
pub fn max<T: PartialOrd>(a: T, b: T) -> T {
    if a < b { b } else { a }
}

/// WGSL's `u32`: arithmetic wraps, and a shift is by a word of the same type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct U32(pub u32);

/// Implements an operator of words.
macro_rules! operator {
    ($($operator:ident, $method:ident, $of:ident;)*) => {
        $(impl $operator for U32 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(u32::$of(self.0, other.0))
            }
        })*
    };
}
operator! {
    Add, add, wrapping_add;
    Sub, sub, wrapping_sub;
    Mul, mul, wrapping_mul;
    BitAnd, bitand, bitand;
    BitOr, bitor, bitor;
    BitXor, bitxor, bitxor;
}

impl Shl for U32 {
    type Output = Self;
    #[inline(always)]
    fn shl(self, by: Self) -> Self {
        Self(self.0.wrapping_shl(by.0))
    }
}

impl Shr for U32 {
    type Output = Self;
    #[inline(always)]
    fn shr(self, by: Self) -> Self {
        Self(self.0.wrapping_shr(by.0))
    }
}

/// `f32(x)`: the nearest number.
#[inline(always)]
pub fn f32(x: U32) -> f32 {
    x.0 as f32
}

/// `u32(x)`, towards 0; here for numbers from 0 to 2^22. Others give some word or other.
///
/// A cast with `as` minds what does not fit, which no vector unit does. The sum has units of 1 in its lowest bit.
#[inline(always)]
pub fn u32(x: f32) -> U32 {
    const UNITS: f32 = 8_388_608.0;
    let sum = x + UNITS;
    let over = u32::from(sum - UNITS > x);
    U32(sum.to_bits()) - U32(UNITS.to_bits()) - U32(over)
}

/// The magnitude.
#[inline(always)]
pub fn abs(x: f32) -> f32 {
    x.abs()
}

#[cfg(test)]
mod tests {
    use super::{U32, u32};

    #[test]
    fn a_number_becomes_the_word_below_it() {
        let edges =
            (0..1 << 12).flat_map(|i| [i as f32, (i as f32).next_up(), (i as f32 + 1.0).next_down(), i as f32 + 0.5]);
        for x in edges.chain([4_194_303.8, 4_194_303.5, 4_194_303.0]) {
            assert_eq!(u32(x), U32(x as u32), "{x}");
        }
    }
}
