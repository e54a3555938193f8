#![no_main]

use vmm::fuzzing::{Seen, config};

libfuzzer_sys::fuzz_target!(|input: &[u8]| config(input, &mut Seen::default()));
