#![no_main]

use vmm::fuzzing::{fuzz, keys};

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz(keys, input));
