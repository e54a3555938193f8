#![no_main]

use vmm::fuzzing::{Seen, api};

libfuzzer_sys::fuzz_target!(|input: &[u8]| api(input, &mut Seen::default()));
