#![no_main]

use vmm::fuzzing::{Seen, registers};

libfuzzer_sys::fuzz_target!(|input: &[u8]| registers(input, &mut Seen::default()));
