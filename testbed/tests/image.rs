//! The emulated host has in it what is measured and what measures it. Nothing there plans,
//! reports or parses the harness's command lines, so a change of those changes no figure.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
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

/// The packages that each one is linked to, by name.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(repo())
        .output()
        .unwrap();
    assert!(
        cargo.status.success(),
        "{}",
        String::from_utf8_lossy(&cargo.stderr)
    );
    let metadata: Value = serde_json::from_slice(&cargo.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeMap<String, String> = packages
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let is_linked = |dependency: &&Value| {
        let kinds = dependency["dep_kinds"].as_array().unwrap();
        kinds.iter().any(|kind| kind["kind"].is_null())
    };
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let of = |node: &Value| -> BTreeSet<String> {
        let all = node["deps"].as_array().unwrap().iter();
        all.filter(is_linked)
            .map(|d| names[&text(&d["pkg"])].clone())
            .collect()
    };
    nodes
        .iter()
        .map(|node| (names[&text(&node["id"])].clone(), of(node)))
        .collect()
}

fn closure(of: &str, all: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut todo = vec![of.to_string()];
    while let Some(name) = todo.pop() {
        let more = all
            .get(&name)
            .unwrap_or_else(|| panic!("no package {name}"));
        if found.insert(name) {
            todo.extend(more.iter().cloned());
        }
    }
    found
}

#[test]
fn no_program_of_an_image_is_linked_to_what_plans_or_reports() {
    let all = dependencies();
    for program in IN_IMAGES {
        let linked = closure(program, &all);
        for outside in OUTSIDE {
            assert!(
                !linked.contains(*outside),
                "{program} is linked to {outside}"
            );
        }
    }
    let linked = closure("dense-init", &all);
    assert!(
        linked.contains("dense-agent") && linked.contains("serde"),
        "{linked:?}"
    );
    for library in LIBRARIES {
        assert!(
            !linked.contains(*library),
            "dense-init is linked to {library}"
        );
    }
    // What has to be found is found.
    let outside = closure("dense-bench", &all);
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
