#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vmm::fuzzing::run("api", input));
