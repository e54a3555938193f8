//! The emulated host has in it what is measured and what measures it. Nothing there plans,
//! reports or parses the harness's command lines, so a change of those changes no figure.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use testbed::programs::IN_IMAGES;
use testbed::workshop::repo;

/// Ours that run plans, read them, or show results.
const OUTSIDE: &[&str] = &[
    "dense-bench",
    "dense-report",
    "checked-toml",
    "testbed",
    "xtask",
];
/// What parses command lines and plans, draws and reckons; the VMM has a command line.
const LIBRARIES: &[&str] = &["clap", "toml", "glob", "maud", "statrs"];
/// The sources that become the host's first process.
const INIT: &[&str] = &["benches/init", "benches/agent", "benches/record"];

/// The packages that `program` is linked to when it is built, with the features that it asks
/// for, by name.
fn linked(program: &str) -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges", "normal"])
        .args(["--prefix", "none", "--format", "{p}", "--package", program])
        .current_dir(repo())
        .output()
        .unwrap();
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    let text = String::from_utf8(tree.stdout).unwrap();
    let name = |line: &str| line.split(' ').next().map(String::from);
    text.lines().filter_map(name).collect()
}

#[test]
fn no_program_of_an_image_is_linked_to_what_plans_or_reports() {
    for program in IN_IMAGES {
        let linked = linked(program);
        for outside in OUTSIDE {
            assert!(
                !linked.contains(*outside),
                "{program} is linked to {outside}"
            );
        }
    }
    let init = linked("dense-init");
    assert!(
        init.contains("dense-agent") && init.contains("serde"),
        "{init:?}"
    );
    for library in LIBRARIES {
        assert!(
            !init.contains(*library),
            "dense-init is linked to {library}"
        );
    }
    // What has to be found is found.
    let outside = linked("dense-bench");
    assert!(LIBRARIES.iter().all(|library| outside.contains(*library)));
}

#[test]
fn the_first_process_has_no_other_file_in_it() {
    fn check(folder: &Path, seen: &mut usize) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                check(&path, seen);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for word in ["include_str!", "include_bytes!", "include!", "#[path"] {
                assert!(!text.contains(word), "{}: {word}", path.display());
            }
            *seen += 1;
        }
    }
    for package in INIT {
        let mut seen = 0;
        check(&repo().join(package).join("src"), &mut seen);
        assert!(seen > 0, "{package}");
    }
}
