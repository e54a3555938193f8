#![no_main]

use vmm::fuzzing::{api, fuzz};

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz(api, input));
