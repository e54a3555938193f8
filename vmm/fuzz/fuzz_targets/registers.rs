#![no_main]

use vmm::fuzzing::{fuzz, registers};

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz(registers, input));
