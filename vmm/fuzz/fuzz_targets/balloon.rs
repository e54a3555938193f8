#![no_main]

use vmm::fuzzing::{Seen, balloon};

libfuzzer_sys::fuzz_target!(|input: &[u8]| balloon(input, &mut Seen::default()));
