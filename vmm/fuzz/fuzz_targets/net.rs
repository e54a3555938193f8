#![no_main]

use vmm::fuzzing::{fuzz, net};

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz(net, input));
