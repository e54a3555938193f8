use std::cell::Cell;
use std::fs::{read, read_dir};
use std::path::Path;
use std::thread;

use super::*;

/// A target's name, and what it does with an input.
type Target = (&'static str, fn(&[u8], &mut Seen));

const TARGETS: [Target; 10] = [
    ("registers", registers),
    ("block", block),
    ("net", net),
    ("rng", rng),
    ("vsock", vsock),
    ("balloon", balloon),
    ("console", console),
    ("boot", boot),
    ("config", config),
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

thread_local! {
    /// Lines that this thread has had logged.
    static LINES: Cell<usize> = const { Cell::new(0) };
}

/// Counts what would be written to the host's log.
struct Counter;

impl log::Log for Counter {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        crate::log::is_ours(metadata)
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            LINES.with(|lines| lines.set(lines.get() + 1));
        }
    }

    fn flush(&self) {}
}

/// Nor do they fill the host's log: a device says one thing a minute.
#[test]
fn seeds_and_noise_do_no_harm() {
    // Fails only if another test was faster; it counts as well then.
    if log::set_logger(&Counter).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
    let mut most = 0;
    for (name, target) in TARGETS {
        for input in seeds(name).into_iter().chain(noise(500)) {
            LINES.set(0);
            target(&input, &mut Seen::default());
            assert!(
                LINES.get() <= 1,
                "{name} logs {} lines: {input:x?}",
                LINES.get()
            );
            most = most.max(LINES.get());
        }
    }
    assert_eq!(most, 1, "nothing counts");
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
