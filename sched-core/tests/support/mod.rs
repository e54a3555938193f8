//! What the differential tests share.

pub mod cases;
pub mod fair;
pub mod inputs;
pub mod source;
pub mod spin;
pub mod worker;

pub use cases::Case;
pub use inputs::Inputs;
pub use worker::Worker;

/// Inputs a function: 10^6, or `SCHED_CORE_INPUTS`.
pub fn count() -> usize {
    match std::env::var("SCHED_CORE_INPUTS") {
        Ok(count) => count
            .parse()
            .expect("SCHED_CORE_INPUTS is a number of inputs"),
        Err(_) => 1_000_000,
    }
}

/// Numbers an input of the series' functions.
pub const NARGS: usize = 4;
