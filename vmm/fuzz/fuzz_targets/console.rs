#![no_main]

use vmm::fuzzing::{console, fuzz};

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz(console, input));
