#![no_main]

use vmm::fuzzing::{Seen, vsock};

libfuzzer_sys::fuzz_target!(|input: &[u8]| vsock(input, &mut Seen::default()));
