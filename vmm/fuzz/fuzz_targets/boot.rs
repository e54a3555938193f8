#![no_main]

use vmm::fuzzing::{boot, fuzz};

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz(boot, input));
