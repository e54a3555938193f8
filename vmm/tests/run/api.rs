//! A machine with a name: its socket, what docs/vmm-api.json says of it, and the commands
//! that use it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use vmm::api::client::Client;
use vmm::observe::outside::Sight;
use vmm::rundir::RunDir;
use vmm::sched::Class;

use crate::guests::{Running, assert_ended_by, start};
use crate::payload::Payload;
use crate::{no_kvm, skip, vmm, wait_until, web};

/// A machine called web with two vCPUs.
struct Machine {
    running: Running,
    run_dir: TempDir,
}

impl Machine {
    fn new(payload: Payload, options: &[&str]) -> Self {
        let run_dir = tempfile::tempdir().unwrap();
        let named = ["--cpus", "2", "--name", "web", "--run-dir"];
        let dir = [run_dir.path().to_str().unwrap()];
        let running = start(payload, &[&named[..], &dir, options].concat());
        Self { running, run_dir }
    }

    /// One that halts.
    fn halting() -> Self {
        Self::new(Payload::default().print("x").halt(), &[])
    }

    fn socket(&self) -> PathBuf {
        self.run_dir.path().join("web.sock")
    }

    /// What `vmm list` knows of it.
    #[track_caller]
    fn list(&self) -> Value {
        let list: Value = serde_json::from_str(&self.print(&["list", "--json"])).unwrap();
        list[0].clone()
    }

    /// What `vmm stat` knows of it.
    #[track_caller]
    fn stat(&self) -> Value {
        let stat: Value = serde_json::from_str(&self.print(&["stat", "--json"])).unwrap();
        stat[0].clone()
    }

    /// Sends a request as it stands; returns status and body.
    fn exchange(&self, request: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let answer = std::io::read_to_string(stream).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_string())
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.exchange(&format!(
            "{method} {path} HTTP/1.1\r\nHost: vmm\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    fn json(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, text) = self.ask(method, path, body);
        (status, serde_json::from_str(&text).unwrap())
    }

    /// Runs a subcommand.
    fn command(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vmm"))
            .args(words)
            .arg("--run-dir")
            .arg(self.run_dir.path())
            .output()
            .unwrap()
    }

    #[track_caller]
    fn print(&self, words: &[&str]) -> String {
        let output = self.command(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refuse(&self, words: &[&str], word: &str) {
        let output = self.command(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.contains(word), "{errors}");
        assert!(output.stdout.is_empty());
    }

    fn end(self) {
        assert_ended_by(self.running, Signal::QUIT);
        assert_eq!(fs::read_dir(self.run_dir.path()).unwrap().count(), 0);
    }
}

/// A process's threads of a name.
fn threads(pid: u32, name: &str) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let named = tasks.filter(|task| {
        let comm = fs::read_to_string(task.path().join("comm")).unwrap();
        comm.trim() == name
    });
    let tids = named.map(|task| task.file_name().to_str().unwrap().parse().unwrap());
    tids.collect()
}

/// Reads what the machine prints, so that it can go on.
fn read_all(machine: &mut Machine) -> JoinHandle<std::io::Result<u64>> {
    let mut pipe = machine.running.vmm.stdout.take().unwrap();
    std::thread::spawn(move || std::io::copy(&mut pipe, &mut std::io::sink()))
}

/// docs/vmm-api.json.
fn document() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vmm-api.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Follows "$ref" within the document.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(place) => document
            .pointer(place.strip_prefix('#').unwrap())
            .unwrap_or_else(|| panic!("{place}")),
        None => value,
    }
}

/// What the document says of the answer to `operation` with this status.
#[track_caller]
fn assert_described(document: &Value, operation: &Value, status: u16, body: &str) {
    let responses = &operation["responses"];
    let response = match &responses[status.to_string()] {
        Value::Null => &responses["default"],
        own => own,
    };
    let content = resolve(document, response)["content"].as_object().unwrap();
    let Some(json) = content.get("application/json") else {
        return;
    };
    // The schema, in a document with all others.
    let schema = json!({
        "allOf": [json["schema"]],
        "components": document["components"],
    });
    let validator = jsonschema::validator_for(&schema).unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    if let Err(error) = validator.validate(&body) {
        panic!("{error} in {body}");
    }
}

#[test]
fn the_server_does_what_the_document_says() {
    if no_kvm() {
        return;
    }
    let document = document();
    let machine = Machine::halting();
    // What is sent to each; a path that is not here fails.
    let bodies = BTreeMap::from([
        ("/v1/info", vec![""]),
        ("/v1/stat", vec![""]),
        // Answered at the end: the_end_is_told_to_who_waits_for_it.
        ("/v1/end", vec![]),
        ("/v1/pause", vec![""]),
        ("/v1/resume", vec![""]),
        (
            "/v1/stop",
            vec!["{\"timeout_s\": 1000}", "{\"timeout\": 7}"],
        ),
    ]);
    let paths = document["paths"].as_object().unwrap();
    let mut statuses = BTreeSet::new();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            for body in &bodies[path.as_str()] {
                let (status, answer) = machine.ask(&method.to_uppercase(), path, body);
                assert_described(&document, operation, status, &answer);
                statuses.insert(status);
            }
            // The first body is a good one.
            let Some(good) = bodies[path.as_str()].first() else {
                continue;
            };
            let (status, _) = machine.ask(&method.to_uppercase(), path, good);
            assert!(
                !operation["responses"][status.to_string()].is_null(),
                "{path}: {status}"
            );
            let (status, answer) = machine.ask("DELETE", path, "");
            assert_eq!(status, 405, "{answer}");
            assert_described(&document, operation, status, &answer);
        }
    }
    assert_eq!(paths.len(), bodies.len());
    assert_eq!(statuses, BTreeSet::from([200, 202, 400]));
    let (status, answer) = machine.json("POST", "/v1/pause", "");
    assert_eq!((status, &answer["code"]), (410, &json!("gone")));
    machine.end();
}

/// Kernels before 6.15 tell strangers nothing of a process's end: the machine itself does.
#[test]
fn the_end_is_told_to_who_waits_for_it() {
    if no_kvm() {
        return;
    }
    let document = document();
    let machine = Machine::halting();
    // They keep nobody waiting, and are not in the way of a stop.
    let ask = |_| {
        let mut stream = UnixStream::connect(machine.socket()).unwrap();
        stream.write_all(b"GET /v1/end HTTP/1.1\r\n\r\n").unwrap();
        stream
    };
    let waiting: Vec<_> = (0..3).map(ask).collect();
    let (status, _) = machine.ask("POST", "/v1/stop", "{\"timeout_s\": 0}");
    assert_eq!(status, 202);
    for stream in waiting {
        let answer = std::io::read_to_string(stream).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let operation = &document["paths"]["/v1/end"]["get"];
        assert_described(&document, operation, 200, body);
        let said: Value = serde_json::from_str(body).unwrap();
        assert_eq!(said, json!({"status": 6}));
    }
}

/// A thread that does not run, nor end, nor come to rest, until this is dropped.
struct Held(i32);

impl Held {
    fn new(tid: i32) -> Self {
        // SAFETY: no memory is read or written.
        let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, 0, 0) };
        assert_eq!(seized, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: the same.
        unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0) };
        let mut status = 0;
        // SAFETY: the kernel writes to `status`.
        let stopped = unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) };
        assert_eq!(stopped, tid);
        Self(tid)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: no memory is read or written.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0) };
    }
}

#[test]
fn a_pause_that_takes_long_keeps_nobody_waiting() {
    if no_kvm() {
        return;
    }
    let machine = Machine::halting();
    let held = Held::new(threads(machine.running.vmm.id(), "vcpu0")[0]);
    let mut pausing = UnixStream::connect(machine.socket()).unwrap();
    pausing
        .write_all(b"POST /v1/pause HTTP/1.1\r\n\r\n")
        .unwrap();
    // Comes later, and would be answered later; this one undoes the pause before it is done.
    assert_eq!(machine.ask("POST", "/v1/resume", "").0, 200);
    drop(held);
    let answer = std::io::read_to_string(pausing).unwrap();
    assert!(answer.starts_with("HTTP/1.1 409 "), "{answer}");
    assert!(
        answer.contains("somebody let the machine go on"),
        "{answer}"
    );
    machine.end();
}

#[test]
fn the_document_would_find_a_difference() {
    let document = document();
    let operation = &document["paths"]["/v1/stop"]["post"];
    for bad in [
        "{}",
        "{\"error\": \"x\"}",
        "{\"code\": \"usage\", \"error\": 7}",
        "{\"code\": \"other\", \"error\": \"x\"}",
        "{\"code\": \"usage\", \"error\": \"x\", \"more\": 1}",
    ] {
        let wrong = std::panic::catch_unwind(|| {
            assert_described(&document, operation, 400, bad);
        });
        assert!(wrong.is_err(), "{bad}");
    }
}

#[test]
fn what_is_no_request_is_answered_and_harms_nobody() {
    if no_kvm() {
        return;
    }
    let machine = Machine::halting();
    let mode = fs::metadata(machine.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000));
    for (request, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET /nowhere HTTP/1.1\r\n\r\n", 404),
        (
            "POST /v1/stop HTTP/1.1\r\nContent-Length: 3\r\n\r\n{\"a",
            400,
        ),
        (
            "POST /v1/stop HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n",
            413,
        ),
        ("GET /v1/info HTTP/1.1\r\n", 408),
        (&long, 431),
    ] {
        assert_eq!(machine.exchange(request).0, status, "{request:.40}");
    }
    // Nobody waits for its answer.
    for _ in 0..50 {
        drop(UnixStream::connect(machine.socket()).unwrap());
    }
    assert_eq!(machine.ask("GET", "/v1/info", "").0, 200);
    machine.end();
}

#[test]
fn silent_clients_keep_nobody_waiting() {
    if no_kvm() {
        return;
    }
    let machine = Machine::new(
        Payload::default().print("x").halt(),
        &["--stop-timeout", "0"],
    );
    let connect = |_| UnixStream::connect(machine.socket()).unwrap();
    // More than are served at the same time; half of them begin to say something.
    let mut silent: Vec<_> = (0..40).map(connect).collect();
    for stream in silent.iter_mut().step_by(2) {
        // Those that had to make place are closed.
        let _ = stream.write_all(b"GET /v1/in");
    }
    assert_eq!(machine.ask("GET", "/v1/info", "").0, 200);
    machine.print(&["stop", "web"]);
    drop(silent);
}

#[test]
fn a_machine_that_is_stopped_hides_no_other() {
    if no_kvm() {
        return;
    }
    let machine = Machine::halting();
    let dir = machine.run_dir.path().to_str().unwrap();
    let options = ["--name", "frozen", "--run-dir", dir];
    let frozen = start(Payload::default().print("x").halt(), &options);
    let pid = Pid::from_child(&frozen);
    kill_process(pid, Signal::STOP).unwrap();
    for (words, code) in [
        (&["list"][..], 1),
        (&["stat"], 1),
        (&["stat", "--prometheus"], 0),
    ] {
        let output = machine.command(words);
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(errors.contains("frozen does not answer"), "{errors}");
        assert!(text.contains("web"), "{text}");
        let row = match code {
            0 => "vmm_up{vm=\"frozen\"} 0",
            _ => "NOT ANSWERING",
        };
        assert!(text.contains(row), "{text}");
    }
    let list = machine.command(&["list", "--json"]);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list[0]["name"], "frozen");
    assert_eq!(list[0]["pid"], frozen.id());
    assert_eq!(
        (&list[0]["state"], &list[1]["name"]),
        (&json!("not-answering"), &json!("web"))
    );
    // It is steered from outside: nobody waits for its answer.
    machine.print(&["set", "frozen", "--vcpu-class", "rr:2"]);
    let vcpu = threads(frozen.id(), "vcpu0");
    assert_eq!(Class::of(vcpu[0]).unwrap(), "rr:2");
    kill_process(pid, Signal::CONT).unwrap();
    assert_ended_by(frozen, Signal::QUIT);
    machine.end();
}

#[test]
fn the_kernel_agrees_with_what_is_said_of_threads() {
    if no_kvm() {
        return;
    }
    let machine = Machine::halting();
    let options = ["--vcpu-class", "rr:3", "--vcpu-affinity", "1=0"];
    machine.print(&[&["set", "web"], &options[..]].concat());
    let info = machine.list();
    assert_eq!(info["pid"], machine.running.vmm.id());
    let mut names = Vec::new();
    for thread in [&info["vcpus"], &info["helpers"]]
        .into_iter()
        .flat_map(|threads| threads.as_array().unwrap())
    {
        let folder = format!("/proc/{}/task/{}", info["pid"], thread["tid"]);
        let name = fs::read_to_string(format!("{folder}/comm")).unwrap();
        let status = fs::read_to_string(format!("{folder}/status")).unwrap();
        let cpus = format!("Cpus_allowed_list:\t{}\n", thread["cpus"].as_str().unwrap());
        assert!(status.contains(&cpus), "{thread} {status}");
        assert_eq!(name.trim(), thread["name"]);
        names.push(name.trim().to_string());
        let stat = fs::read_to_string(format!("{folder}/stat")).unwrap();
        let policy = stat.rsplit_once(')').unwrap().1.split(' ').nth(39).unwrap();
        let class = if name.starts_with("vcpu") {
            ("2", "rr:3")
        } else {
            ("0", "fair")
        };
        assert_eq!((policy, thread["class"].as_str().unwrap()), class);
    }
    assert_eq!(names, ["vcpu0", "vcpu1", "vmm-io", "vmm", "vmm-api"]);
    assert_eq!(info["vcpus"][1]["cpus"], "0");
    machine.refuse(&["set", "web"], "nothing to set");
    // A class that the kernel lacks: told to who asked for it.
    let output = machine.command(&["set", "web", "--vcpu-class", "bt"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let info = machine.list();
    match info["vcpus"][0]["class"].as_str() {
        Some("bt") => skip("this kernel has the class bt"),
        class => {
            assert_eq!(class, Some("fair"));
            assert_eq!(errors.lines().count(), 1, "{errors}");
            assert!(errors.contains("no scheduling class bt"), "{errors}");
            let strict = ["set", "web", "--vcpu-class", "bt", "--vcpu-class-strict"];
            machine.refuse(&strict, "no scheduling class bt");
        }
    }
    machine.refuse(&["set", "web", "--cpu-weight", "5"], "group");
    machine.refuse(
        &["set", "nobody", "--vcpu-class", "fair"],
        "no machine called nobody",
    );
    machine.end();
}

/// The second vCPU was never started by the guest, so it used next to no time.
#[test]
fn statistics_grow_with_what_the_guest_does() {
    if no_kvm() {
        return;
    }
    let mut machine = Machine::new(Payload::default().print_without_end(), &[]);
    let reader = read_all(&mut machine);
    let stat = || machine.stat();
    let before = stat();
    let value = |stat: &Value, name: &str| stat["vcpus"][0][name].as_u64();
    let exits = |stat: &Value| value(stat, "exits");
    let grows = |now: &Value| {
        value(now, "run_ns") > value(&before, "run_ns")
            && (exits(&before).is_none() || exits(now) > exits(&before))
    };
    wait_until("statistics grow", || grows(&stat()));
    let share = stat()["vcpus"][0]["delay_share"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&share));
    let table = machine.print(&["stat", "web"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    let words = ["stat", "--watch=1", "--count", "2", "--json"];
    let lines = machine.print(&words);
    assert_eq!(lines.lines().count(), 2, "{lines}");
    for line in lines.lines() {
        let stats: Value = serde_json::from_str(line).unwrap();
        assert_eq!(stats[0]["name"], "web");
    }
    machine.refuse(&["stat", "nobody"], "no machine called nobody");
    machine.end();
    reader.join().unwrap().unwrap();
}

/// Whether KVM can tell guests of the time that was taken from them.
fn kvm_has_steal_time() -> bool {
    const STEAL_TIME: u32 = 1 << 5;
    let features = Kvm::new()
        .unwrap()
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
    let has_steal = |e: &kvm_cpuid_entry2| e.function == 0x4000_0001 && e.eax & STEAL_TIME != 0;
    features.unwrap().as_slice().iter().any(has_steal)
}

/// KVM tells the guest the run delay of the vCPU's thread, where it may know.
#[test]
fn steal_is_the_run_delay_where_a_guest_can_have_it() {
    if no_kvm() {
        return;
    }
    for (pv, shown) in [("all", kvm_has_steal_time()), ("none", false)] {
        let machine = Machine::new(Payload::default().print("x").halt(), &["--pv", pv]);
        let stat = machine.stat();
        for vcpu in stat["vcpus"].as_array().unwrap() {
            let delay = shown.then(|| vcpu["delay_ns"].clone());
            assert_eq!(vcpu.get("steal_ns").cloned(), delay, "{pv} {stat}");
        }
        machine.end();
    }
}

/// A thread's context switches, voluntary and not.
fn switches(task: &Path) -> u64 {
    let status = fs::read_to_string(task.join("status")).unwrap();
    let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
    let count = |line: &str| line.rsplit(char::is_whitespace).next()?.parse::<u64>().ok();
    counts.map(|line| count(line).unwrap()).sum()
}

#[test]
fn a_thousand_stats_wake_nobody_but_the_one_that_answers() {
    if no_kvm() {
        return;
    }
    let machine = Machine::halting();
    let look = || -> BTreeMap<String, u64> {
        fs::read_dir(format!("/proc/{}/task", machine.running.vmm.id()))
            .unwrap()
            .map(|task| task.unwrap().path())
            .map(|task| {
                (
                    fs::read_to_string(task.join("comm")).unwrap(),
                    switches(&task),
                )
            })
            .filter(|(name, _)| name != "vmm-api\n")
            .collect()
    };
    let mut before = look();
    wait_until("the machine is idle", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = look();
        now == std::mem::replace(&mut before, now.clone())
    });
    let clients = Client::all(&RunDir::new(machine.run_dir.path())).unwrap();
    let mut sight = Sight::default();
    for _ in 0..1000 {
        let answers = sight.look(Client::get_all(&clients, "/v1/stat"));
        assert_eq!(answers[0].said.as_ref().unwrap().vcpus.len(), 2);
    }
    assert_eq!(look(), before);
    machine.end();
}

#[test]
fn prometheus_text_is_what_a_parser_of_others_takes() {
    if no_kvm() {
        return;
    }
    let machine = Machine::halting();
    {
        let text = machine.print(&["stat", "--prometheus"]);
        let lines = text.lines().map(|line| Ok(line.to_string()));
        let scrape = prometheus_parse::Scrape::parse(lines).unwrap();
        let samples = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(scrape.samples.len(), samples);
        let of = |metric: &str| -> Vec<_> {
            let samples = scrape.samples.iter();
            samples.filter(|sample| sample.metric == metric).collect()
        };
        for (metric, count) in [
            ("vmm_vcpu_run_seconds_total", 2),
            ("vmm_vcpu_run_delay_seconds_total", 2),
            ("vmm_vcpu_info", 2),
            (
                "vmm_vcpu_steal_seconds_total",
                if kvm_has_steal_time() { 2 } else { 0 },
            ),
            ("vmm_helper_run_seconds_total", 3),
        ] {
            assert_eq!(of(metric).len(), count, "{metric}: {text}");
        }
        for sample in &scrape.samples {
            use prometheus_parse::Value::{Counter, Gauge};
            // Each has its type, and says whose it is.
            assert!(matches!(sample.value, Counter(_) | Gauge(_)), "{sample:?}");
            assert_eq!(sample.labels.get("vm"), Some("web"));
        }
        let info = of("vmm_vcpu_info");
        assert_eq!(info[1].labels.get("vcpu"), Some("1"));
        assert_eq!(info[1].labels.get("class"), Some("fair"));
    }
    machine.end();
}

/// The guest prints for ever: what it has printed stands still while it is paused.
#[test]
fn a_paused_machine_does_nothing_until_it_is_resumed() {
    if no_kvm() {
        return;
    }
    let mut machine = Machine::new(Payload::default().print_without_end(), &[]);
    let reader = read_all(&mut machine);
    let run_ns = || {
        let stat = machine.stat();
        stat["vcpus"][0]["run_ns"].as_u64().unwrap()
    };
    machine.print(&["pause", "web"]);
    assert!(machine.print(&["list"]).contains("paused"));
    let mut before = run_ns();
    wait_until("its vCPUs stand still", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = run_ns();
        // Answering the question itself takes some time, a guest's run far more.
        now - std::mem::replace(&mut before, now) < 20_000_000
    });
    machine.print(&["resume", "web"]);
    assert!(machine.print(&["list"]).contains("running"));
    let after = run_ns();
    wait_until("its vCPUs go on", || run_ns() - after > 100_000_000);
    machine.end();
    reader.join().unwrap().unwrap();
}

#[test]
fn machines_are_listed_while_they_run() {
    if no_kvm() {
        return;
    }
    let machine = Machine::halting();
    // A socket that a killed one left is no machine.
    let dead = machine.run_dir.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let table = machine.print(&["list"]);
    assert_eq!(table.lines().count(), 2, "{table}");
    let list: Value = serde_json::from_str(&machine.print(&["list", "--json"])).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["name"], "web");
    assert_eq!(list[0]["mem_bytes"], 64 << 20);
    fs::remove_file(dead).unwrap();
    machine.end();
}

#[test]
fn a_name_is_one_machines_at_a_time() {
    if no_kvm() {
        return;
    }
    let machine = Machine::halting();
    let kernel = Payload::default().print("OK").power_off().elf();
    let named = web(&machine.run_dir);
    let again = || vmm(kernel.path()).args(named).output().unwrap();
    let refused = again();
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{errors}");
    assert!(errors.contains("runs already"), "{errors}");
    // The one that runs is as it was.
    assert_eq!(machine.ask("GET", "/v1/info", "").0, 200);
    let Machine { running, run_dir } = machine;
    assert_ended_by(running, Signal::QUIT);
    let output = vmm(kernel.path()).args(web(&run_dir)).output().unwrap();
    assert!(output.status.success());
    assert_eq!(fs::read_dir(run_dir.path()).unwrap().count(), 0);
}

/// One guest listens to its power button, one does not, and one is paused.
#[test]
fn stop_asks_the_guest_first() {
    if no_kvm() {
        return;
    }
    let listens = || {
        Payload::default()
            .print("x")
            .wait_for_power_button()
            .power_off()
    };
    for (payload, paused, words, code) in [
        (listens(), false, &["stop", "web"][..], 0),
        (listens(), true, &["stop", "web"], 0),
        (
            Payload::default().print("x").halt(),
            false,
            &["stop", "web", "--timeout", "1"],
            6,
        ),
    ] {
        let mut machine = Machine::new(payload, &["--stop-timeout", "100000"]);
        if paused {
            machine.print(&["pause", "web"]);
        }
        machine.print(words);
        // It has ended when the command returns.
        let status = machine.running.vmm.wait().unwrap();
        assert_eq!(status.code(), Some(code));
        machine.refuse(&["stop", "web"], "no machine called web");
        assert_eq!(fs::read_dir(machine.run_dir.path()).unwrap().count(), 0);
    }
}

/// The guest starts as real time; what was set from outside meanwhile is not taken back when it
/// has started. The other vCPU gets the class that it was to have.
#[test]
fn the_end_of_the_launch_class_leaves_what_was_set_from_outside() {
    if no_kvm() {
        return;
    }
    let launch = ["--launch-class", "rr:5", "--launch-until", "GO"];
    let options = [&launch[..], &["--launch-limit", "600"]].concat();
    let kernel = Payload::default().print("x").echo_line().halt();
    let run_dir = tempfile::tempdir().unwrap();
    let elf = kernel.elf();
    let child = vmm(elf.path())
        .args(["--cpus", "2", "--name", "web", "--run-dir"])
        .arg(run_dir.path())
        .args(options)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = Running::of(child, elf);
    let pid = running.vmm.id();
    let class = |name: &str| {
        let tids = threads(pid, name);
        tids.first().map(|&tid| Class::of(tid).unwrap())
    };
    wait_until("the launch class", || {
        class("vcpu1").as_deref() == Some("rr:5")
    });
    let set = Command::new(env!("CARGO_BIN_EXE_vmm"))
        .args(["set", "web", "--vcpu-class", "rr:7", "--run-dir"])
        .arg(run_dir.path())
        .output()
        .unwrap();
    assert!(set.status.success(), "{set:?}");
    // One is taken back, so that something is seen to happen.
    let give: Class = "rr:5".parse().unwrap();
    give.give(threads(pid, "vcpu1")[0]).unwrap();
    let input = running.vmm.stdin.as_mut().unwrap();
    input.write_all(b"GO\n").unwrap();
    wait_until("the launch's end", || {
        class("vcpu1").as_deref() == Some("fair")
    });
    assert_eq!(class("vcpu0").as_deref(), Some("rr:7"));
    assert_ended_by(running, Signal::QUIT);
}

/// All or nothing: vCPU 0 had its CPUs when vCPU 1 could not.
#[test]
fn a_set_that_fails_in_part_is_undone() {
    if no_kvm() {
        return;
    }
    let machine = Machine::halting();
    let before = machine.list();
    let affinity = "--vcpu-affinity";
    machine.refuse(&["set", "web", affinity, "0=0,1=1023"], "vCPU 1");
    assert_eq!(machine.list()["vcpus"], before["vcpus"]);
    machine.end();
}
