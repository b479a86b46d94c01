//! Formats on the device, held to a plain loop over the numerics of `format`: every step from the bits that it found.

#[path = "../support/mod.rs"]
mod support;

mod expected;
mod layouts;
mod pairs;
mod refusals;
mod stand;
mod texts;
mod tiny;
