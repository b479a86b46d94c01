//! Settings by name: what files and messages call them, and the ranges they must lie in.

use std::fmt;

use crate::Error;

/// The value of a setting as a file holds it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `lr = 0.001`
    Number(f64),
    /// `amsgrad = true`
    Flag(bool),
    /// `decay = "l2"`
    Word(String),
}

impl Value {
    /// The number, where it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Number(x) => Some(*x),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(x) => write!(f, "{}", number(*x)),
            Value::Flag(x) => write!(f, "{x}"),
            Value::Word(x) => write!(f, "{x:?}"),
        }
    }
}

/// A number as a person would write it: `0.001`, `1e-8`.
pub(crate) fn number(x: f64) -> String {
    if x != 0.0 && (x.abs() < 1e-4 || x.abs() >= 1e7) { format!("{x:e}") } else { format!("{x}") }
}

/// A type that a setting can have.
pub(crate) trait Kind: Clone {
    fn expected() -> String;
    fn from_value(value: Value) -> Option<Self>;
    fn to_value(&self) -> Value;
}

impl Kind for f64 {
    fn expected() -> String {
        "a number".into()
    }
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Number(x) => Some(x),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::Number(*self)
    }
}

impl Kind for bool {
    fn expected() -> String {
        "true or false".into()
    }
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Flag(x) => Some(x),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::Flag(*self)
    }
}

/// A choice that files write as a word.
pub trait Word: Copy + PartialEq + 'static {
    /// Every choice with its word.
    const WORDS: &'static [(&'static str, Self)];
}

impl<W: Word> Kind for W {
    fn expected() -> String {
        let words: Vec<String> = W::WORDS.iter().map(|(word, _)| format!("{word:?}")).collect();
        format!("one of {}", words.join(", "))
    }
    fn from_value(value: Value) -> Option<Self> {
        let Value::Word(found) = value else {
            return None;
        };
        let mut words = W::WORDS.iter();
        words.find(|(word, _)| *word == found).map(|(_, choice)| *choice)
    }
    fn to_value(&self) -> Value {
        let word = W::WORDS.iter().find(|(_, choice)| choice == self);
        Value::Word(word.map_or("", |(word, _)| word).into())
    }
}

/// Declares an enum and the word that files use for each choice.
macro_rules! words {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$choice_meta:meta])* $choice:ident = $word:literal,)* }) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $(#[$meta])*
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub enum $name {
            $($(#[$choice_meta])* #[cfg_attr(feature = "serde", serde(rename = $word))] $choice,)*
        }

        impl $crate::rule::Word for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, $name::$choice)),*];
        }
    };
}
pub(crate) use words;

words! {
    /// Where weight decay enters the step.
    pub enum Decay {
        /// Added to the gradient before anything else: `g += weight_decay * p`.
        L2 = "l2",
        /// Taken off the parameter before the step: `p *= 1 - lr * weight_decay`.
        Decoupled = "decoupled",
        /// Added to the update before it is scaled by lr: `p -= lr * (update + weight_decay * p)`. In real
        /// arithmetic this is [`Decoupled`](Decay::Decoupled); the two names are kept because the frameworks
        /// document one or the other.
        Inside = "inside",
    }
}

/// Implements `Rule::settings` and `Rule::set` for the named fields.
macro_rules! settings {
    ($($field:ident),* $(,)?) => {
        fn settings(&self) -> Vec<(&'static str, $crate::rule::Value)> {
            use $crate::rule::settings::Kind;
            vec![$((stringify!($field), self.$field.to_value())),*]
        }

        fn set(&mut self, setting: &str, value: $crate::rule::Value) -> Result<(), $crate::Error> {
            use $crate::rule::settings::assign;
            match setting {
                $(stringify!($field) => assign(Self::NAME, stringify!($field), &mut self.$field, value),)*
                _ => Err($crate::Error::UnknownSetting {
                    rule: Self::NAME,
                    setting: setting.into(),
                    known: [$(stringify!($field)),*].join(", "),
                }),
            }
        }
    };
}
pub(crate) use settings;

pub(crate) fn assign<K: Kind>(
    rule: &'static str,
    setting: &'static str,
    field: &mut K,
    value: Value,
) -> Result<(), Error> {
    let found = value.to_string();
    *field = K::from_value(value).ok_or_else(|| Error::Setting { rule, setting, found, expected: K::expected() })?;
    Ok(())
}

/// The ranges that settings are held to, for the rule named.
pub(crate) struct Range(pub &'static str);

impl Range {
    /// `0 <= x`, finite, and still what it was when cast to `f32`.
    pub fn not_negative(&self, setting: &'static str, x: f64) -> Result<(), Error> {
        let name = setting;
        self.require(x.is_finite() && x >= 0.0, setting, x, || format!("a finite {name} >= 0"))?;
        self.require((x as f32).is_finite(), setting, x, || "a number that f32 can hold".into())
    }

    /// Not negative, and not 0 in `f32` unless 0 is what it is: an eps that vanished would let NaN in.
    pub fn epsilon(&self, setting: &'static str, x: f64) -> Result<(), Error> {
        self.not_negative(setting, x)?;
        self.require(x == 0.0 || x as f32 != 0.0, setting, x, || "0, or a number that is not 0 in f32".into())
    }

    /// `0 < x`, and not 0 or infinite in `f32`.
    pub fn positive(&self, setting: &'static str, x: f64) -> Result<(), Error> {
        self.require(x > 0.0 && x as f32 > 0.0 && (x as f32).is_finite(), setting, x, || {
            format!("{setting} > 0 that f32 can hold")
        })
    }

    /// `least <= x <= most`.
    pub fn between(&self, setting: &'static str, x: f64, least: f64, most: f64) -> Result<(), Error> {
        self.require((least..=most).contains(&x), setting, x, || {
            format!("{} <= {setting} <= {}", number(least), number(most))
        })
    }

    /// `0 <= x < 1`.
    pub fn share(&self, setting: &'static str, x: f64) -> Result<(), Error> {
        self.require((0.0..1.0).contains(&x), setting, x, || format!("0 <= {setting} < 1"))
    }

    /// A setting that some presets leave open: NaN stands for "not given".
    pub fn given(&self, setting: &'static str, x: f64) -> Result<(), Error> {
        if !x.is_nan() {
            return Ok(());
        }
        let (rule, found) = (self.0, "not given".into());
        Err(Error::Setting {
            rule,
            setting,
            found,
            expected: "a number: the preset has no default, so it must be given".into(),
        })
    }

    fn require(
        &self,
        holds: bool,
        setting: &'static str,
        x: f64,
        expected: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        if holds {
            return Ok(());
        }
        Err(Error::Setting { rule: self.0, setting, found: number(x), expected: expected() })
    }
}

/// The gradient as a formula: `g = -grad + 0.1 * p`.
pub(crate) fn gradient_line(maximize: bool, l2: f64) -> String {
    let sign = if maximize { "-" } else { "" };
    if l2 > 0.0 { format!("g = {sign}grad + {} * p", number(l2)) } else { format!("g = {sign}grad") }
}

/// A term of a formula, where it is not 0: ` + 1e-8`.
pub(crate) fn plus(x: f64, over: &str) -> String {
    if x > 0.0 { format!(" + {}{over}", number(x)) } else { String::new() }
}
