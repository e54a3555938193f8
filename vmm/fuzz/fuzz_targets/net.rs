#![no_main]

use vmm::fuzzing::{Seen, net};

libfuzzer_sys::fuzz_target!(|input: &[u8]| net(input, &mut Seen::default()));
