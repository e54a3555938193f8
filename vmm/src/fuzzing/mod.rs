//! What the fuzzers in vmm/fuzz run: bytes in, and no panic, hang or access out of range.
//!
//! A target makes a part of a machine and a hostile guest, user or peer of it, whose
//! steps the bytes say. The committed inputs in vmm/fuzz/seeds run in the ordinary tests
//! too. docs/fuzzing.md tells how to run the fuzzers and what they have run.

mod api;
mod boot;
mod config;
mod console;
mod devices;
mod driver;
mod keys;
mod lines;
mod registers;
mod reuse;
mod seen;

pub use api::api;
pub use boot::boot;
pub use config::config;
pub use console::console;
pub use devices::{balloon, block, net, rng, vsock};
pub use keys::keys;
pub use lines::fuzz;
pub use registers::registers;
pub use seen::Seen;

#[cfg(test)]
mod tests;
