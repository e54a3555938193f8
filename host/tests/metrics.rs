//! What a scraper gets: accepted by foreign parsers, and named by Prometheus's rules.

mod tree;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
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
        tree::count(folder.path(), pid, 12);
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
        if name.starts_with("vmfirst_") {
            assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
        }
        if name.len() > "vmfirst:".len() && name.starts_with("vmfirst:") {
            assert!(recorded.contains(name), "{name}");
        }
    }
}

/// The dashboard as it is imported.
fn dashboard() -> Value {
    let path = format!("{}/dashboards/grafana.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn text_of<'a>(value: &'a Value, key: &str) -> &'a str {
    let text = value[key].as_str();
    text.unwrap_or_else(|| panic!("{key} of {value}"))
}

fn list_of<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("{key} of {value}"))
}

/// The words behind each "$" or "${".
fn variables(text: &str) -> Vec<&str> {
    let behind = text.split('$').skip(1).map(|t| t.trim_start_matches('{'));
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    behind
        .map(|t| &t[..t.find(|c| !word(c)).unwrap_or(t.len())])
        .collect()
}

/// What Grafana refuses or shows as nothing: panels that overlap or leave its 24 columns, ids
/// that are there twice, variables that are none, targets without a data source.
#[test]
fn the_dashboard_is_one_for_grafana() {
    let dashboard = dashboard();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36);
    let list = list_of(&dashboard["templating"], "list");
    let mut known: BTreeSet<&str> = list.iter().map(|v| text_of(v, "name")).collect();
    // Grafana's own.
    known.extend(["__rate_interval", "__all"]);
    let mut ids = BTreeSet::new();
    let mut squares = BTreeSet::new();
    for panel in list_of(&dashboard, "panels") {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        for key in ["title", "description", "type"] {
            assert!(!text_of(panel, key).is_empty(), "{key}: {panel}");
        }
        assert_eq!(text_of(&panel["datasource"], "uid"), "${datasource}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string());
        let at = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        let [x, y, w, h] = at;
        assert!(w > 0 && h > 0 && x + w <= 24, "{panel}");
        for square in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(squares.insert(square), "{panel} overlaps another");
        }
        let targets = list_of(panel, "targets");
        let refs: BTreeSet<_> = targets.iter().map(|t| text_of(t, "refId")).collect();
        assert!(!targets.is_empty() && refs.len() == targets.len());
    }
    for name in variables(&dashboard.to_string()) {
        assert!(known.contains(name), "${name}");
    }
}

/// Prometheus's own parser, or none: then what needs it is skipped.
fn promtool() -> Option<Command> {
    if Command::new("promtool").arg("--version").output().is_err() {
        eprintln!("SKIP: no promtool (Debian: prometheus)");
        return None;
    }
    Some(Command::new("promtool"))
}

/// What Prometheus has after a while of scraping: counters have grown from scrape to scrape.
fn scraped() -> Vec<Value> {
    let text = text();
    let counters: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let series = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let step = if counters.contains(name) {
                "1+6x30"
            } else {
                "1+0x30"
            };
            let comma = if labels == "}" { "" } else { "," };
            json!({ "series": format!("{name}{{instance=\"host\"{comma}{labels}"), "values": step })
        });
    series.collect()
}

/// Each query of the dashboard: a panel's, with the labels that its legend names, or a
/// variable's, with the label that it takes the values of.
fn queries(dashboard: &Value) -> Vec<(String, Vec<String>)> {
    let targets = list_of(dashboard, "panels")
        .iter()
        .flat_map(|panel| list_of(panel, "targets"));
    let targets = targets.map(|target| {
        let legend = text_of(target, "legendFormat").split("{{").skip(1);
        let labels = legend.map(|label| label.split("}}").next().unwrap().trim().to_string());
        (text_of(target, "expr").to_string(), labels.collect())
    });
    let values = list_of(&dashboard["templating"], "list")
        .iter()
        .filter(|variable| variable["type"] == "query")
        .map(|variable| {
            let query = text_of(&variable["query"], "query");
            assert_eq!(query, text_of(variable, "definition"));
            let inner = query.strip_prefix("label_values(").unwrap();
            let (metric, label) = inner.strip_suffix(')').unwrap().rsplit_once(", ").unwrap();
            (metric.to_string(), vec![label.to_string()])
        });
    targets.chain(values).collect()
}

/// With all VMs of all hosts chosen, each query has an answer, and the answer all labels that
/// are shown: over what vmfirst prints and the recording rules make of it, by Prometheus itself.
#[test]
fn each_panel_has_something_to_show() {
    let Some(mut promtool) = promtool() else {
        return;
    };
    let queries = queries(&dashboard());
    assert!(queries.len() >= 11, "{queries:?}");
    let expected = queries.iter().flat_map(|(query, labels)| {
        let query = query
            .replace("$instance", ".+")
            .replace("$vm", ".+")
            .replace("$__rate_interval", "1m");
        labels.iter().map(move |label| {
            let named = format!("label_replace({query}, \"named\", \"yes\", \"{label}\", \".+\")");
            json!({
                "expr": format!("count by (named) ({named}) > bool 0"),
                "eval_time": "7m",
                "exp_samples": [{ "labels": "{named=\"yes\"}", "value": 1 }],
            })
        })
    });
    let test = json!({
        "rule_files": [format!("{}/dashboards/rules.yml", env!("CARGO_MANIFEST_DIR"))],
        "evaluation_interval": "15s",
        "tests": [{
            "interval": "15s",
            "input_series": scraped(),
            "promql_expr_test": expected.collect::<Vec<_>>(),
        }],
    });
    let mut file = tempfile::NamedTempFile::new().unwrap();
    // YAML has JSON in it.
    file.write_all(test.to_string().as_bytes()).unwrap();
    let output = promtool.args(["test", "rules"]).arg(file.path()).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// Debian's package prometheus has it.
#[test]
fn promtool_accepts_text_and_rules() {
    let Some(mut check) = promtool() else {
        return;
    };
    let mut check = check
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
    let output = Command::new("promtool")
        .args(["check", "rules", &rules])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
