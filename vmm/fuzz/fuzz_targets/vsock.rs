#![no_main]

use vmm::fuzzing::{fuzz, vsock};

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz(vsock, input));
