#![no_main]

use vmm::fuzzing::{config, fuzz};

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz(config, input));
