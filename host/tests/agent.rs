//! `vmfirst agent` on a generated tree, and its program's answers to mistakes.

mod tree;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use vmfirst_host::agent::config::Config;
use vmfirst_host::agent::service::{Service, status};
use vmfirst_host::read::Root;

const BASE: &str = "sys/fs/cgroup";
const SECOND: Duration = Duration::from_secs(1);

/// A group with the files that the kernel makes with it.
fn add(at: &Path, group: &str) {
    let folder = at.join(BASE).join(group);
    fs::create_dir_all(&folder).unwrap();
    for (file, text) in [
        ("cpu.weight", "300\n"),
        ("cpu.idle", "0\n"),
        ("memory.min", "0\n"),
        ("memory.low", "0\n"),
        ("memory.oom.group", "0\n"),
        ("memory.reclaim", ""),
        ("io.weight", "default 100\n"),
        ("cgroup.procs", "1\n"),
        ("cgroup.events", "populated 1\nfrozen 0\n"),
    ] {
        fs::write(folder.join(file), text).unwrap();
    }
}

/// A host with a group of high priority, one of offline work and one of kubelet's.
fn host() -> (tempfile::TempDir, Root) {
    let (folder, root) = tree::host();
    for group in [
        "vmfirst-high.slice",
        "vmfirst-low.slice",
        "kubepods.slice/pod",
    ] {
        add(folder.path(), group);
    }
    (folder, root)
}

fn config(text: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("agent.toml"), text).unwrap();
    Config::read(folder.path()).unwrap()
}

fn read(at: &Path, file: &str) -> String {
    let text = fs::read_to_string(at.join(BASE).join(file)).unwrap();
    text.trim().into()
}

/// All files of all groups.
fn all(at: &Path) -> Vec<(String, String)> {
    let mut folders = vec![at.join(BASE)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => {
                    let text = fs::read_to_string(entry.path()).unwrap();
                    found.push((entry.path().display().to_string(), text.trim().into()));
                }
            }
        }
    }
    found.sort();
    found
}

fn told(at: &Path) -> Value {
    let text = fs::read_to_string(at.join("run/vmfirst/agent-status.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn groups_are_kept_to_their_priorities_and_put_back() {
    let (folder, root) = host();
    let at = folder.path();
    let before = all(at);
    let more = "[groups]\n\"kubepods.slice/pod\" = 7\n";
    let mut service = Service::new(root.clone(), config(more)).unwrap();
    let would = service.would_write().unwrap();
    assert!(
        would.contains(&"/vmfirst-low.slice cpu.weight: 300 -> idle (priority 7)".to_string()),
        "{would:?}"
    );
    assert_eq!(all(at), before);

    service.step(SECOND).unwrap();
    assert_eq!(read(at, "vmfirst-high.slice/cpu.weight"), "800");
    assert_eq!(read(at, "vmfirst-high.slice/memory.low"), "max");
    assert_eq!(read(at, "vmfirst-low.slice/cpu.idle"), "1");
    assert_eq!(read(at, "vmfirst-low.slice/memory.oom.group"), "1");
    let kubelets = |all: &[(String, String)]| -> Vec<_> {
        let is = |(path, _): &&(String, String)| path.contains("kubepods");
        all.iter().filter(is).cloned().collect()
    };
    assert_eq!(kubelets(&all(at)), kubelets(&before));

    let status = told(at);
    let groups = status["groups"].as_array().unwrap();
    let of = |name: &str| groups.iter().find(|group| group["group"] == name).unwrap();
    assert_eq!(of("/vmfirst-low.slice")["cpu"]["state"], "enforced");
    assert_eq!(of("/vmfirst-low.slice")["io"]["state"], "unavailable");
    assert_eq!(of("/kubepods.slice/pod")["cpu"]["state"], "unavailable");
    // Each change has its line.
    let audit = fs::read_to_string(at.join("var/log/vmfirst/audit.jsonl")).unwrap();
    assert_eq!(
        audit.lines().count() as u64,
        status["changed"].as_u64().unwrap()
    );

    // Another configuration, without a restart.
    service.reload(config("[slices]\n\"vmfirst-low.slice\" = 4\n"));
    service.step(SECOND).unwrap();
    assert_eq!(read(at, "vmfirst-low.slice/cpu.idle"), "0");
    assert_eq!(read(at, "vmfirst-low.slice/cpu.weight"), "50");
    assert_eq!(read(at, "vmfirst-low.slice/memory.oom.group"), "0");

    service.restore("the test ends").unwrap();
    assert_eq!(all(at), before);
}

/// A killed agent is one that puts nothing back.
#[test]
fn the_next_agent_puts_back_what_a_killed_one_left() {
    let (folder, root) = host();
    let at = folder.path();
    let before = all(at);
    let mut killed = Service::new(root.clone(), Config::default()).unwrap();
    killed.step(SECOND).unwrap();
    drop(killed);
    assert_ne!(all(at), before);
    // None runs, whatever file is there.
    assert!(status(&root).is_err());

    let none =
        "[slices]\n\"vmfirst-high.slice\" = 3\n[priority.3]\ncpu_weight = 300\nio_weight = 100\n";
    let mut next = Service::new(root, config(none)).unwrap();
    next.step(SECOND).unwrap();
    assert_eq!(read(at, "vmfirst-high.slice/memory.low"), "0");
    assert_eq!(read(at, "vmfirst-high.slice/cpu.weight"), "300");
    assert_eq!(read(at, "vmfirst-low.slice/cpu.idle"), "1");
    next.restore("the test ends").unwrap();
    assert_eq!(all(at), before);
}

/// Groups come and go at any time.
#[test]
fn groups_that_vanish_and_come_back_are_no_trouble() {
    let (folder, root) = host();
    let at = folder.path();
    let mut service = Service::new(root, Config::default()).unwrap();
    service.step(SECOND).unwrap();
    fs::remove_dir_all(at.join(BASE).join("vmfirst-low.slice")).unwrap();
    service.step(SECOND).unwrap();
    assert_eq!(told(at)["groups"].as_array().unwrap().len(), 1);
    add(at, "vmfirst-low.slice");
    service.step(SECOND).unwrap();
    assert_eq!(read(at, "vmfirst-low.slice/cpu.idle"), "1");
    fs::remove_dir_all(at.join(BASE).join("vmfirst-high.slice")).unwrap();
    service.restore("the test ends").unwrap();
    assert_eq!(read(at, "vmfirst-low.slice/cpu.idle"), "0");
}

/// What the groups wait for and have run is written by hand: the share of offline work, its
/// end, the scores and a record follow.
#[test]
fn offline_work_is_held_back_while_online_work_waits() {
    let (folder, root) = host();
    let at = folder.path();
    let write = |file: &str, text: &str| fs::write(at.join(BASE).join(file), text).unwrap();
    write("vmfirst-low.slice/cpu.max", "max 100000\n");
    let more = "[cpu_loop]\ncalm_looks = 1\nstep_percent = 50\n[monitor]\nwindow_ms = 1000\n";
    let mut service = Service::new(root.clone(), config(more)).unwrap();
    let mut waited = 0;
    let mut step = |service: &mut Service, us: u64| {
        waited += us;
        let text = format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={waited}\n");
        write("vmfirst-high.slice/cpu.pressure", &text);
        let text = format!("usage_usec {}\n", waited * 2);
        write("vmfirst-low.slice/cpu.stat", &text);
        service.step(SECOND).unwrap();
    };
    step(&mut service, 0);
    assert_eq!(read(at, "vmfirst-low.slice/cpu.max"), "max 100000");
    step(&mut service, 400_000);
    // Three quarters of two CPUs.
    assert_eq!(read(at, "vmfirst-low.slice/cpu.max"), "150000 100000");
    let status = told(at);
    assert_eq!(status["offline_per_mille"], 750);
    let scores = status["scores"]["groups"].as_array().unwrap();
    let high = scores.iter().find(|s| s["group"] == "/vmfirst-high.slice");
    assert_eq!(high.unwrap()["cpu"], 60.0);
    step(&mut service, 0);
    let ring = fs::read_to_string(at.join("var/log/vmfirst/breaches.jsonl")).unwrap();
    let record: Value = serde_json::from_str(ring.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&record["group"], &record["score"]),
        (&"/vmfirst-high.slice".into(), &60.0.into())
    );
    // A step of half of the CPUs is more than it lacks.
    assert_eq!(read(at, "vmfirst-low.slice/cpu.max"), "max 100000");
    step(&mut service, 400_000);
    service.reload(Config::default());
    step(&mut service, 0);
    assert_eq!(read(at, "vmfirst-low.slice/cpu.max"), "max 100000");
    assert!(told(at)["scores"].is_null());
}

fn vmfirst(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmfirst"));
    command.args(arguments).output().unwrap()
}

#[test]
fn a_mistake_is_one_line_and_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    let check = ["agent", "--check", "--config", at];
    assert!(vmfirst(&check).status.success(), "no file is no mistake");
    fs::write(folder.path().join("a.toml"), "[slices]\n\"x.slice\" = 9\n").unwrap();
    let output = vmfirst(&check);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    let place = format!("vmfirst: {at}/a.toml:2:13: 9 is no priority");
    assert!(
        said.starts_with(&place) && said.lines().count() == 1,
        "{said}"
    );
    let none = vmfirst(&["agent", "--check", "--config", "/nowhere"]);
    assert_eq!(none.status.code(), Some(1));
    for wrong in [
        &["priority", "..", "1"][..],
        &["priority", "/", "1"],
        &["priority", "no/such", "9"],
    ] {
        let output = vmfirst(wrong);
        assert_eq!(output.status.code(), Some(1), "{wrong:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    }
}

/// `systemd-analyze` on the units with the program of this build.
#[test]
fn the_units_are_some_and_leave_little_of_the_host() {
    for unit in ["vmfirst-agent", "vmfirst-nri"] {
        analyze(unit);
    }
}

fn analyze(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("{name}.service");
    let unit = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("systemd")
        .join(&file);
    let text = fs::read_to_string(unit).unwrap();
    let text = text.replace("/usr/bin/vmfirst", env!("CARGO_BIN_EXE_vmfirst"));
    // The page of the manual is not installed here.
    let text = text.replace(&format!("Documentation=man:{name}(8)\n"), "");
    fs::write(folder.path().join(&file), text).unwrap();
    // Of 10; an ordinary service has 9.6.
    let security = ["security", "--offline=yes", "--threshold=25", "--no-pager"];
    for options in [&["verify", "--man=no"][..], &security] {
        let output = Command::new("systemd-analyze")
            .args(options)
            .arg(format!("./{file}"))
            .current_dir(folder.path())
            .output();
        let Ok(output) = output else {
            eprintln!("SKIP: systemd is not installed");
            return;
        };
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(options[0] != "verify" || said.is_empty(), "{said}");
    }
}
