//! The CPU's step over numbers of fewer bits.

mod chance;
mod composed;
mod refusals;
mod run;
mod state;
mod threads;
mod toy;
