#![no_main]

use vmm::fuzzing::{Seen, rng};

libfuzzer_sys::fuzz_target!(|input: &[u8]| rng(input, &mut Seen::default()));
