use std::fs::{read, read_dir};
use std::path::Path;

use super::*;

/// Every input that is committed: what was found once, and a short corpus.
#[test]
fn the_seeds_do_no_harm() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, target) in TARGETS {
        let files: Vec<_> = read_dir(seeds.join(name)).unwrap().collect();
        assert!(!files.is_empty(), "{name}");
        for file in files {
            target(&read(file.unwrap().path()).unwrap());
        }
    }
}

/// A target without a binary, or the other way round, would be run by nobody.
#[test]
fn every_target_has_a_binary() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut files: Vec<_> = read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_owned())
        .collect();
    let mut names = TARGETS.map(|(name, _)| name);
    files.sort();
    names.sort();
    assert_eq!(files, names);
}

/// Some thousand inputs without a fuzzer's help, the same at each run.
#[test]
fn noise_does_no_harm() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for (_, target) in TARGETS {
        for _ in 0..500 {
            let length = next() % 400;
            let input: Vec<u8> = (0..length).map(|_| next() as u8).collect();
            target(&input);
        }
    }
}
