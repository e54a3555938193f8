use std::fs::{read, read_dir};
use std::path::Path;
use std::thread;

use super::lines::counted;
use super::*;

/// A target's name, and what it does with an input.
type Target = (&'static str, fn(&[u8], &mut Seen));

const TARGETS: [Target; 11] = [
    ("registers", registers),
    ("block", block),
    ("net", net),
    ("rng", rng),
    ("vsock", vsock),
    ("balloon", balloon),
    ("console", console),
    ("boot", boot),
    ("config", config),
    ("keys", keys),
    ("api", api),
];

/// The inputs that are committed for a target: what was found once, and a short corpus.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let mut paths: Vec<_> = read_dir(folder.join(name))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{name}");
    paths.into_iter().map(|path| read(path).unwrap()).collect()
}

/// Inputs without a fuzzer's help, the same at each run.
fn noise(count: usize) -> Vec<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count)
        .map(|_| (0..next() % 400).map(|_| next() as u8).collect())
        .collect()
}

/// Nor do they fill the host's log: a device says one thing a minute.
#[test]
fn seeds_and_noise_do_no_harm() {
    let inputs = |name| seeds(name).into_iter().chain(noise(500));
    let lines = TARGETS.into_iter().map(|(name, target)| {
        let lines = inputs(name).map(|input| counted(target, &input));
        lines.sum::<u64>()
    });
    assert!(lines.sum::<u64>() > 0, "nothing counts");
}

/// What inputs share must not carry anything from one to the next: a finding would not
/// happen again.
#[test]
fn an_input_has_the_same_outcome_alone_and_after_others() {
    for (name, target) in TARGETS {
        let outcome = move |input: &[u8]| {
            let mut seen = Seen::wanted();
            target(input, &mut seen);
            seen.digest().unwrap()
        };
        let inputs: Vec<_> = seeds(name).into_iter().chain(noise(100)).collect();
        // What is shared is a thread's own. Few at a time: each has some descriptors.
        let alone: Vec<_> = inputs
            .chunks(16)
            .flat_map(|inputs| {
                thread::scope(|scope| {
                    let mut started = Vec::new();
                    for input in inputs {
                        started.push(scope.spawn(move || outcome(input)));
                    }
                    let ended = started.into_iter().map(|thread| thread.join().unwrap());
                    ended.collect::<Vec<_>>()
                })
            })
            .collect();
        let indices = (0..inputs.len()).chain((0..inputs.len()).rev());
        for index in indices {
            let input = &inputs[index];
            assert_eq!(outcome(input), alone[index], "{name} {index}: {input:x?}");
        }
        let mut different = alone;
        different.sort();
        different.dedup();
        assert!(different.len() > 4, "{name}: it sees nothing");
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
