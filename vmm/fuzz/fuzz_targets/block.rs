#![no_main]

use vmm::fuzzing::{Seen, block};

libfuzzer_sys::fuzz_target!(|input: &[u8]| block(input, &mut Seen::default()));
