//! The chain around the update: what it decides, on the device and on the CPU, and what it must leave alone.
#![allow(clippy::mutable_key_type, reason = "a buffer is compared and hashed by its identity")]

#[path = "../support/mod.rs"]
mod support;

mod accumulation;
mod bench;
mod bias;
mod encoders;
mod growth;
mod histories;
mod norm;
mod plain;
mod refusals;
mod shown;
mod skip;
#[cfg(feature = "parallel")]
mod threads;
mod together;
mod twins;
mod watched;
mod zeroed;
