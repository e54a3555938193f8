#![no_main]

use vmm::fuzzing::{block, fuzz};

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz(block, input));
