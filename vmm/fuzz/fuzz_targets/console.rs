#![no_main]

use vmm::fuzzing::{Seen, console};

libfuzzer_sys::fuzz_target!(|input: &[u8]| console(input, &mut Seen::default()));
