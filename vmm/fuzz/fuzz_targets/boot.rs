#![no_main]

use vmm::fuzzing::{Seen, boot};

libfuzzer_sys::fuzz_target!(|input: &[u8]| boot(input, &mut Seen::default()));
