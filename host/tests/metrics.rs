//! What a scraper gets: accepted by foreign parsers, and named by Prometheus's rules.

mod tree;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use tree::Process;
use vmfirst_host::cli::prometheus;
use vmfirst_host::model::{Sampler, find};

fn text() -> String {
    let (folder, root) = tree::host();
    for (pid, name) in [
        (100, "web"),
        (200, "a\"b\\c"),
        (300, "twice"),
        (400, "twice"),
    ] {
        Process {
            pid,
            exe: Some("/usr/bin/qemu-system-x86_64"),
            arguments: &["qemu-system-x86_64", "-name", name],
            group: &format!("/m/{pid}"),
            vcpus: Some(2),
            threads: &["qemu-system-x86", "CPU 0/KVM", "CPU 1/KVM", "IO iothread1"],
        }
        .write(folder.path());
    }
    let group = folder.path().join("sys/fs/cgroup/m/100");
    std::fs::create_dir_all(&group).unwrap();
    let stat = "usage_usec 5\nnr_periods 10\nnr_throttled 3\nthrottled_usec 4000000\n";
    std::fs::write(group.join("cpu.stat"), stat).unwrap();
    let vms = find(&root).vms;
    let sample = Sampler::new(root.clone()).look(&vms);
    prometheus::text(&root, &vms, &sample)
}

#[test]
fn a_foreign_parser_takes_it() {
    let text = text();
    let scrape = prometheus_parse::Scrape::parse(text.lines().map(|l| Ok(l.to_string()))).unwrap();
    let value = |metric: &str, vm: &str| {
        let sample = scrape
            .samples
            .iter()
            .find(|s| s.metric == metric && s.labels.get("vm") == Some(vm));
        match sample
            .unwrap_or_else(|| panic!("{metric} of {vm}: {text}"))
            .value
        {
            prometheus_parse::Value::Counter(v) | prometheus_parse::Value::Gauge(v) => v,
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!(value("vmfirst_vcpu_run_seconds_total", "web"), 0.007);
    assert_eq!(value("vmfirst_vcpu_run_delay_seconds_total", "web"), 0.003);
    assert_eq!(value("vmfirst_vm_cpu_throttled_periods_total", "web"), 3.0);
    assert_eq!(value("vmfirst_vm_cpu_throttled_seconds_total", "web"), 4.0);
    assert_eq!(value("vmfirst_vm_vcpus", "twice (300)"), 2.0);
    assert!(
        text.contains(r#"vmfirst_vm_vcpus{vm="a\"b\\c"} 2"#),
        "{text}"
    );
    // A series is there once, or the whole scrape is thrown away.
    let names: Vec<_> = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|l| l.rsplit_once(' ').unwrap().0)
        .collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}

/// https://prometheus.io/docs/practices/naming/
#[test]
fn names_follow_the_rules() {
    let text = text();
    let mut families = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        families += 1;
        assert!(name.starts_with("vmfirst_"), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        for unit in ["_ms", "_us", "_ns", "_usec", "percent", "milli"] {
            assert!(!name.contains(unit), "{name}");
        }
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
    }
    assert!(families > 10, "{text}");
    assert!(text.contains("libvirt_domain_vcpu_delay_seconds_total"));
}

/// All that rules and dashboard ask for is there.
#[test]
fn rules_and_dashboard_name_what_there_is() {
    let text = text();
    let folder = format!("{}/dashboards", env!("CARGO_MANIFEST_DIR"));
    let rules = std::fs::read_to_string(format!("{folder}/rules.yml")).unwrap();
    let dashboard = std::fs::read_to_string(format!("{folder}/grafana.json")).unwrap();
    let _: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let recorded: BTreeSet<&str> = rules
        .lines()
        .filter_map(|l| l.trim().strip_prefix("- record: "))
        .collect();
    assert!(recorded.len() >= 6, "{recorded:?}");
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    for name in rules
        .split(|c| !word(c))
        .chain(dashboard.split(|c| !word(c)))
    {
        if name.starts_with("vmfirst_") && name != "vmfirst_vm_kvm_total" {
            assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
        }
        if name.len() > "vmfirst:".len() && name.starts_with("vmfirst:") {
            assert!(recorded.contains(name), "{name}");
        }
    }
}

/// Debian's package prometheus has it.
#[test]
fn promtool_accepts_text_and_rules() {
    let promtool = || Command::new("promtool");
    if promtool().arg("--version").output().is_err() {
        eprintln!("SKIP: no promtool (Debian: prometheus)");
        return;
    }
    let mut check = promtool()
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check
        .stdin
        .take()
        .unwrap()
        .write_all(text().as_bytes())
        .unwrap();
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
    let rules = format!("{}/dashboards/rules.yml", env!("CARGO_MANIFEST_DIR"));
    let output = promtool()
        .args(["check", "rules", &rules])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
