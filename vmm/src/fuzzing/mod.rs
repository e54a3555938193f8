//! What the fuzzers in vmm/fuzz run: bytes in, and no panic, hang or access out of range.
//!
//! A target makes a part of a machine and a hostile guest, user or peer of it, whose
//! steps the bytes say. The committed inputs in vmm/fuzz/seeds run in the ordinary tests
//! too. docs/fuzzing.md tells how to run the fuzzers and what they have run.

mod api;
mod boot;
mod config;
mod devices;
mod driver;
mod registers;

/// A target's name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them; each has a binary in vmm/fuzz/fuzz_targets and a folder of seeds.
pub const TARGETS: [Target; 8] = [
    ("registers", registers::registers),
    ("block", devices::block),
    ("net", devices::net),
    ("rng", devices::rng),
    ("vsock", devices::vsock),
    ("boot", boot::boot),
    ("config", config::config),
    ("api", api::api),
];

/// Runs the target called `name`.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|(other, _)| *other == name);
    target.expect("a target's name").1(input);
}

#[cfg(test)]
mod tests;
