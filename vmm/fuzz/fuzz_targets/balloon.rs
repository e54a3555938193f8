#![no_main]

use vmm::fuzzing::{balloon, fuzz};

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz(balloon, input));
