#![no_main]

use vmm::fuzzing::{fuzz, rng};

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz(rng, input));
