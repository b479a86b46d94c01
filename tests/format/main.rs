//! Numbers of fewer bits: every code, every rounding, every block.

mod blocks;
mod halves;
