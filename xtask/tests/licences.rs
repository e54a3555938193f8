//! Every library that we link has a licence that deny.toml allows, and ours have their own.
//! `cargo deny check` looks for security advisories, too, where it is installed.

use std::fs;
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, Licensee, ParseMode};
use testbed::workshop::repo;

/// Of everything that is no patch.
const OURS: &str = "Apache-2.0 OR MIT";
/// And of what has a part that runs in the kernel in itself.
const WITH_BPF: (&str, &str) = ("scx-vmfirst", "(Apache-2.0 OR MIT) AND GPL-2.0-only");

fn allowed() -> Vec<Licensee> {
    let text = fs::read_to_string(repo().join("deny.toml")).unwrap();
    let deny: toml::Table = toml::from_str(&text).unwrap();
    let names = deny["licenses"]["allow"].as_array().unwrap();
    let names = names.iter().map(|name| name.as_str().unwrap());
    names.map(|name| Licensee::parse(name).unwrap()).collect()
}

/// Whether one may use what has this licence.
fn fits(licence: &str, allowed: &[Licensee]) -> bool {
    let expression = Expression::parse_mode(licence, ParseMode::LAX).unwrap();
    expression.evaluate(|needed| allowed.iter().any(|licence| licence.satisfies(needed)))
}

#[test]
fn every_licence_is_an_allowed_one() {
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(repo())
        .output()
        .unwrap();
    assert!(
        cargo.status.success(),
        "{}",
        String::from_utf8_lossy(&cargo.stderr)
    );
    let metadata: Value = serde_json::from_slice(&cargo.stdout).unwrap();
    let allowed = allowed();
    for package in metadata["packages"].as_array().unwrap() {
        let name = &package["name"];
        let licence = package["license"].as_str();
        let licence = licence.unwrap_or_else(|| panic!("{name} names no licence"));
        if package["source"].is_null() {
            if name == WITH_BPF.0 {
                assert_eq!(licence, WITH_BPF.1, "{name}");
                continue;
            }
            assert_eq!(licence, OURS, "{name}");
        }
        assert!(
            fits(licence, &allowed),
            "{name}: {licence} is not allowed by deny.toml"
        );
    }
}

#[test]
fn another_licence_is_noticed() {
    let allowed = allowed();
    assert!(fits("MIT/Apache-2.0", &allowed));
    assert!(fits("GPL-3.0-only OR MIT", &allowed));
    for licence in ["GPL-2.0-only", "MIT AND GPL-2.0-only", "AGPL-3.0-only"] {
        assert!(!fits(licence, &allowed), "{licence}");
    }
}
