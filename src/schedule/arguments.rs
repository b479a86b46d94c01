//! The arguments of a kind of schedule: its struct, its defaults, and the ranges they are held to.

use std::fmt::Display;

use crate::Error;
use crate::rule::number;

/// Declares a kind of schedule: arguments that must be given, then `..`, then those that have a default. Makes the
/// struct, `new` over what must be given, and, with feature `serde`, both ways of a table that refuses other keys.
macro_rules! arguments {
    (
        $(#[$about:meta])*
        pub struct $name:ident {
            $($(#[$given_doc:meta])* $given:ident: $given_type:ty,)*
            ..
            $($(#[$other_doc:meta])* $other:ident: $other_type:ty = $default:expr,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        pub struct $name {
            $($(#[$given_doc])* pub $given: $given_type,)*
            $($(#[$other_doc])* #[doc = concat!("Default: `", stringify!($default), "`.")] pub $other: $other_type,)*
        }

        impl $name {
            /// These arguments, and the default of every other.
            pub fn new($($given: $given_type),*) -> Self {
                Self { $($given,)* $($other: $default,)* }
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(serde::Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Table {
                    $($given: $given_type,)*
                    $($other: Option<$other_type>,)*
                }
                let table = Table::deserialize(deserializer)?;
                Ok(Self { $($given: table.$given,)* $($other: table.$other.unwrap_or($default),)* })
            }
        }
    };
}
pub(super) use arguments;

/// Declares a choice, and the word that files use for each.
macro_rules! choice {
    ($(#[$about:meta])* pub enum $name:ident { $($(#[$doc:meta])* $choice:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub enum $name {
            $($(#[$doc])* #[cfg_attr(feature = "serde", serde(rename = $word))] $choice,)*
        }
    };
}
pub(super) use choice;

/// The ranges that arguments are held to, for the kind named.
pub(super) struct Arguments(pub &'static str);

impl Arguments {
    /// `0 <= x`, finite.
    pub fn not_negative(&self, argument: &'static str, x: f64) -> Result<(), Error> {
        let holds = x.is_finite() && x >= 0.0;
        self.require(holds, argument, number(x), || format!("a finite {argument} >= 0"))
    }

    /// `0 < x`, finite.
    pub fn positive(&self, argument: &'static str, x: f64) -> Result<(), Error> {
        let holds = x.is_finite() && x > 0.0;
        self.require(holds, argument, number(x), || format!("a finite {argument} > 0"))
    }

    /// What `dividend` is divided by: `0 < x`, and the quotient is still a number.
    pub fn divisor(&self, argument: &'static str, x: f64, dividend: f64) -> Result<(), Error> {
        self.positive(argument, x)?;
        let expected = || format!("a divisor that leaves {} finite", number(dividend));
        self.require((dividend / x).is_finite(), argument, number(x), expected)
    }

    /// `0 <= x <= 1`.
    pub fn share(&self, argument: &'static str, x: f64) -> Result<(), Error> {
        self.require((0.0..=1.0).contains(&x), argument, number(x), || format!("0 <= {argument} <= 1"))
    }

    /// `0 <= x < 1`, which is also what the rules ask of beta1 and momentum.
    pub fn below_one(&self, argument: &'static str, x: f64) -> Result<(), Error> {
        self.require((0.0..1.0).contains(&x), argument, number(x), || format!("0 <= {argument} < 1"))
    }

    /// Not below another argument.
    pub fn at_least(&self, argument: &'static str, x: f64, least: (&str, f64)) -> Result<(), Error> {
        let (name, least) = least;
        self.require(x >= least, argument, number(x), || format!("{argument} >= {name}, which is {}", number(least)))
    }

    /// At least one step.
    pub fn steps(&self, argument: &'static str, n: u64) -> Result<(), Error> {
        self.require(n >= 1, argument, n, || format!("{argument} >= 1"))
    }

    pub fn require(
        &self,
        holds: bool,
        argument: &'static str,
        found: impl Display,
        expected: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        if holds {
            return Ok(());
        }
        Err(Error::Schedule { kind: self.0, argument, found: found.to_string(), expected: expected() })
    }
}
