//! What the program says to nonsense: one line, with its place.

use assert_cmd::Command;

const GOOD: &str = "name = \"x\"
window_ms = 10
variants = [\"stock\"]

[host]
cpus = 2

[[vm]]
count = 1
vcpus = 2
workload = \"w\"
steps = [{ do = \"compute\", ns = 1000 }]
";

/// Runs `check` on GOOD with one line replaced; returns the status and what it said.
fn check(from: &str, to: &str) -> (bool, String) {
    assert!(GOOD.contains(from), "{from}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.toml");
    std::fs::write(&path, GOOD.replacen(from, to, 1)).unwrap();
    let mut program = Command::cargo_bin("sched-sim").unwrap();
    let output = program
        .current_dir(&folder)
        .args(["check", "s.toml"])
        .output()
        .unwrap();
    (
        output.status.success(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn refused(from: &str, to: &str, expected: &str) {
    let (fine, said) = check(from, to);
    assert!(!fine, "{to} is taken");
    assert_eq!(said, format!("sched-sim: s.toml:{expected}\n"), "for {to}");
}

#[test]
fn a_good_scenario_is_taken() {
    assert_eq!(check("x", "y"), (true, String::new()));
}

#[test]
fn nonsense_gets_one_line_with_its_place() {
    refused(
        "vcpus = 2",
        "vcpus = 2\nweight = 0",
        "11:10: 0 is out of range: 1 to 10000",
    );
    refused(
        "vcpus = 2",
        "vcpus = 1_000_000",
        "10:9: 1000000 is out of range: 1 to 1024",
    );
    refused(
        "count = 1",
        "count = 65_000",
        "9:9: 130000 vCPUs so far; at most 65536 on a host",
    );
    refused(
        "[[vm]]",
        "[[sweep]]\ncpus = 1\ncount = 65_000\n[[vm]]",
        "10:9: 130000 vCPUs so far; at most 65536 on a host",
    );
    refused(
        "window_ms = 10",
        "window_ms = 1.5",
        "2:13: invalid type: floating point `1.5`, expected a whole number from 1 to 3600000",
    );
    refused("\"x\"", "\"\"", "1:8: a scenario without a name");
    refused("\"w\"", "\"\"", "11:12: a workload without a name");
    refused(
        "{ do = \"compute\", ns = 1000 }",
        "",
        "12:9: VM \"w\" has no steps",
    );
    refused(
        "window_ms = 10",
        "window_ms = -10",
        "2:13: -10 is out of range: 1 to 3600000",
    );
    refused(
        "ns = 1000 }",
        "ns = -5 }",
        "12:33: -5 is out of range: 0 to 3600000000000",
    );
    let known = sched_sim::policy::Variant::known();
    let known: Vec<&str> = known.iter().map(|v| v.name.as_ref().as_str()).collect();
    refused(
        "\"stock\"",
        "\"fast\"",
        &format!("3:13: no variant \"fast\"; there are {}", known.join(", ")),
    );
    refused(
        "[\"stock\"]",
        "[\"stock\", \"stock\"]",
        "3:22: \"stock\" a second time",
    );
    refused(
        "[\"stock\"]",
        "[]",
        "3:12: no variants: variants = [\"stock\", \"vmfirst\"]",
    );
    refused(
        "count = 1",
        "class = \"vmf\"\ncount = 17",
        "10:9: 34 vCPUs of class vmf so far; at most 16 a CPU",
    );
    refused("cpus = 2", "cpus = 0", "6:8: 0 is out of range: 1 to 4096");
}

#[test]
fn a_variant_of_ones_own_is_checked_too() {
    let own = |text: &str| format!("[[variant]]\nname = \"own\"\n{text}\n[host]");
    refused(
        "[host]",
        &own("kernel = \"patched\"\nsysfs = { \"/sys/kernel/directed_yield/mode\" = \"best\" }"),
        "8:11: /sys/kernel/directed_yield/mode does not take \"best\"",
    );
    refused(
        "[host]",
        &own("kernel = \"patched\"\nsysfs = { \"/sys/power/state\" = \"mem\" }"),
        "8:11: the simulator knows no file /sys/power/state",
    );
    refused(
        "[host]",
        &own("kernel = \"windows\""),
        "7:10: unknown variant `windows`, expected one of `stock`, `patched`, `compare`, `debian`, `debian-patched`",
    );
}

#[test]
fn unknown_keys_and_broken_files_get_one_line() {
    for (from, to, place) in [
        (
            "cpus = 2",
            "cpus = 2\nfans = 3",
            "s.toml:7:1: unknown field `fans`",
        ),
        (
            "ns = 1000",
            "ns = 1000, color = 1",
            "s.toml:12:39: unknown field `color`",
        ),
        (
            "\"compute\"",
            "\"dance\"",
            "s.toml:12:17: unknown variant `dance`",
        ),
        ("name = ", "name ", "s.toml:1:6: "),
        (
            "ns = 1000",
            "per_mille = 3",
            "s.toml:12:10: a step without a time",
        ),
        (
            "\"compute\", ns = 1000",
            "\"barrier\"",
            "s.toml:12:9: a round that takes no time",
        ),
    ] {
        let (fine, said) = check(from, to);
        assert!(!fine && said.contains(place), "{to}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn results_that_cannot_be_kept_are_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.toml");
    std::fs::write(&path, GOOD).unwrap();
    let mut program = Command::cargo_bin("sched-sim").unwrap();
    let out = folder.path().join("none/r.json");
    let output = program.arg("run").arg(&path).arg("--out").arg(&out);
    let output = output.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(said.ends_with("none: create it first\n"), "{said}");
}

#[test]
fn a_missing_file_is_named() {
    let mut program = Command::cargo_bin("sched-sim").unwrap();
    let output = program.args(["run", "/nonexistent.toml"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("can't read /nonexistent.toml"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}
