//! `vmfirst nri` with a runtime that this test is, on a generated tree: what it asks and what
//! the groups have when the answer comes.

mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use prost::Message as _;
use vmfirst_host::nri::messages::{
    ConfigureResponse, CreateContainerResponse, LinuxPodSandbox, PLUGIN_SERVICE, PodRequest,
    PodSandbox, RegisterPluginRequest, Request, Response, StateChangeEvent, SynchronizeRequest,
    SynchronizeResponse,
};
use vmfirst_host::nri::service::{Options, Service};
use vmfirst_host::nri::wire::{self, Incoming, Message};
use vmfirst_host::read::Root;

const BASE: &str = "sys/fs/cgroup";
const PRIORITY: &str = "user.vmfirst.priority";
const BEST_EFFORT: &str = "kubepods.slice/kubepods-besteffort.slice";
const BURSTABLE: &str = "kubepods.slice/kubepods-burstable.slice";
/// How long anything may take that a test waits for.
const MOST: Duration = Duration::from_secs(60);

/// Events as NRI numbers them.
const RUN: i32 = 1;
const REMOVE: i32 = 3;
const START: i32 = 6;

/// A host with groups, and the folder with its configuration.
struct Host {
    folder: tempfile::TempDir,
    root: Root,
}

impl Host {
    fn new() -> Self {
        let (folder, root) = tree::host();
        let host = Self { folder, root };
        for group in ["kubepods.slice", BEST_EFFORT, BURSTABLE] {
            host.add(group);
        }
        fs::create_dir(host.at().join("config")).unwrap();
        host
    }

    fn at(&self) -> &Path {
        self.folder.path()
    }

    fn group(&self, group: &str) -> PathBuf {
        self.at().join(BASE).join(group)
    }

    /// A group with the files that the kernel makes with it; with a weight of kubelet's.
    fn add(&self, group: &str) {
        let folder = self.group(group);
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in [
            ("cpu.weight", "39\n"),
            ("cpu.idle", "0\n"),
            ("memory.low", "0\n"),
            ("memory.oom.group", "0\n"),
            ("memory.reclaim", ""),
            ("cgroup.procs", ""),
            ("cgroup.events", "populated 1\nfrozen 0\n"),
        ] {
            fs::write(folder.join(file), text).unwrap();
        }
    }

    fn read(&self, group: &str, file: &str) -> String {
        let text = fs::read_to_string(self.group(group).join(file)).unwrap();
        text.trim().into()
    }

    fn attribute(&self, group: &str, name: &str) -> Option<String> {
        let mut bytes = [0; 64];
        let length = rustix::fs::getxattr(self.group(group), name, &mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    fn set(&self, group: &str, value: &str) {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(self.group(group), PRIORITY, value.as_bytes(), flags).unwrap();
    }

    /// The priority of a group, and whether it is idle.
    fn has(&self, group: &str) -> (String, String) {
        let priority = self.attribute(group, PRIORITY);
        (priority.unwrap_or_default(), self.read(group, "cpu.idle"))
    }

    fn options(&self) -> Options {
        Options {
            socket: self.at().join("nri.sock"),
            index: 90,
            config: self.at().join("config"),
            view: "/var/lib/lxcfs".into(),
            keep_offline: false,
        }
    }

    fn start(&self) -> Running {
        self.start_with(self.options())
    }

    fn start_with(&self, options: Options) -> Running {
        Running::start(Service::new(self.root.clone(), options).unwrap())
    }

    /// Listens as a runtime does.
    fn listen(&self) -> UnixListener {
        let socket = self.at().join("nri.sock");
        let _ = fs::remove_file(&socket);
        UnixListener::bind(socket).unwrap()
    }

    /// The plugin and a runtime that knows these pods.
    fn begin(&self, pods: Vec<PodSandbox>) -> (Running, Runtime) {
        let listener = self.listen();
        let running = self.start();
        let mut runtime = Runtime::accept(&listener);
        runtime.synchronize(pods);
        (running, runtime)
    }
}

/// The plugin in a thread.
struct Running {
    end: Arc<AtomicBool>,
    notes: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<Service>>,
}

impl Running {
    fn start(mut service: Service) -> Self {
        let (end, notes) = (
            Arc::<AtomicBool>::default(),
            Arc::<Mutex<Vec<String>>>::default(),
        );
        let (is_end, all) = (end.clone(), notes.clone());
        let thread = thread::spawn(move || {
            while !is_end.load(Ordering::Relaxed) {
                service.step(Duration::from_millis(20), None);
                all.lock().unwrap().extend(service.notes());
            }
            service
        });
        Self {
            end,
            notes,
            thread: Some(thread),
        }
    }

    /// As SIGKILL ends it: nothing is put back.
    fn kill(mut self) -> Service {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }

    fn has_said(&self, text: &str) -> bool {
        let notes = self.notes.lock().unwrap();
        notes.iter().any(|note| note.contains(text))
    }
}

/// Waits until it is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < MOST, "{what} never was");
        thread::sleep(Duration::from_millis(5));
    }
}

/// containerd's end of the socket.
struct Runtime {
    stream: UnixStream,
    incoming: Incoming,
    stream_id: u32,
}

impl Runtime {
    /// Takes a plugin's connection, its registration and what it wants to be told of.
    fn accept(listener: &UnixListener) -> Self {
        let (mut runtime, register) = Self::registration(listener);
        assert_eq!(
            (register.plugin_name.as_str(), register.plugin_idx.as_str()),
            ("vmfirst", "90")
        );
        let answer = runtime.message(wire::RUNTIME, wire::RESPONSE, 1, &Response::default());
        runtime.send(&answer);
        let who = [field(2, "containerd"), field(3, "1.7.24")].concat();
        let configured = runtime.ask("Configure", who).unwrap();
        let events = ConfigureResponse::decode(configured.as_slice())
            .unwrap()
            .events;
        // RunPodSandbox, RemovePodSandbox, CreateContainer, StartContainer.
        assert_eq!(events, 0b10_1101);
        runtime
    }

    fn registration(listener: &UnixListener) -> (Self, RegisterPluginRequest) {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(MOST)).unwrap();
        let mut runtime = Self {
            stream,
            incoming: Incoming::default(),
            stream_id: 1,
        };
        let message = runtime.receive();
        assert_eq!(
            (message.connection, message.kind),
            (wire::RUNTIME, wire::REQUEST)
        );
        let request = Request::decode(message.data.as_slice()).unwrap();
        assert_eq!(request.service, "nri.pkg.api.v1alpha1.Runtime");
        assert_eq!(request.method, "RegisterPlugin");
        let register = RegisterPluginRequest::decode(request.payload.as_slice()).unwrap();
        (runtime, register)
    }

    fn message(
        &self,
        connection: u32,
        kind: u8,
        stream: u32,
        data: &impl prost::Message,
    ) -> Vec<u8> {
        let data = data.encode_to_vec();
        Message {
            connection,
            stream,
            kind,
            data,
        }
        .encode()
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn receive(&mut self) -> Message {
        let mut bytes = [0; 8192];
        loop {
            let count = self.stream.read(&mut bytes).unwrap();
            assert_ne!(count, 0, "the plugin closed the connection");
            if let Some(message) = self.incoming.add(&bytes[..count]).unwrap().pop() {
                return message;
            }
        }
    }

    /// Asks the plugin; its answer, or the code and text of its refusal.
    fn ask(&mut self, method: &str, payload: Vec<u8>) -> Result<Vec<u8>, (i32, String)> {
        self.stream_id += 2;
        let request = Request {
            service: PLUGIN_SERVICE.into(),
            method: method.into(),
            payload,
        };
        let bytes = self.message(wire::PLUGIN, wire::REQUEST, self.stream_id, &request);
        self.send(&bytes);
        let answer = self.receive();
        assert_eq!(
            (answer.connection, answer.kind),
            (wire::PLUGIN, wire::RESPONSE)
        );
        assert_eq!(answer.stream, self.stream_id);
        let response = Response::decode(answer.data.as_slice()).unwrap();
        match response.status {
            Some(status) => Err((status.code, status.message)),
            None => Ok(response.payload),
        }
    }

    fn synchronize(&mut self, pods: Vec<PodSandbox>) {
        let request = SynchronizeRequest { pods, more: false };
        self.ask("Synchronize", request.encode_to_vec()).unwrap();
    }

    /// Tells of an event as containerd 1.7 does.
    fn event(&mut self, event: i32, pod: &PodSandbox) -> Result<Vec<u8>, (i32, String)> {
        let pod = Some(pod.clone());
        self.ask(
            "StateChange",
            StateChangeEvent { event, pod }.encode_to_vec(),
        )
    }

    fn create(&mut self, pod: &PodSandbox) -> Result<CreateContainerResponse, (i32, String)> {
        let pod = Some(pod.clone());
        let answer = self.ask("CreateContainer", PodRequest { pod }.encode_to_vec())?;
        Ok(CreateContainerResponse::decode(answer.as_slice()).unwrap())
    }
}

/// A field of text as protobuf has it.
fn field(number: u8, text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    [&[number << 3 | 2, length], text.as_bytes()].concat()
}

fn pod(group: &str, annotations: &[(&str, &str)]) -> PodSandbox {
    let annotations = annotations
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()));
    let name = group.rsplit('/').next().unwrap();
    PodSandbox {
        id: format!("id-{name}"),
        name: name.into(),
        namespace: "shop".into(),
        annotations: annotations.collect(),
        linux: Some(LinuxPodSandbox {
            cgroup_parent: format!("/{group}"),
        }),
    }
}

fn asks(group: &str, priority: &str) -> PodSandbox {
    pod(group, &[("vmfirst.io/priority", priority)])
}

fn is(priority: &str, idle: &str) -> (String, String) {
    (priority.into(), idle.into())
}

/// Its name: "kubepods-burstable.slice/kubepods-burstable-podX.slice".
fn slice(level: &str, id: &str) -> String {
    let name = level.rsplit('/').next().unwrap().trim_end_matches(".slice");
    format!("{level}/{name}-pod{id}.slice")
}

/// The groups have it when the answer comes: no container has started by then.
#[test]
fn a_pod_has_its_priority_when_the_runtime_has_its_answer() {
    for (guaranteed, burstable, best_effort) in [
        (
            slice("kubepods.slice", "1"),
            slice(BURSTABLE, "2"),
            slice(BEST_EFFORT, "3"),
        ),
        (
            "kubepods/pod1".into(),
            "kubepods/burstable/pod2".into(),
            "kubepods/besteffort/pod3".into(),
        ),
    ] {
        let host = Host::new();
        let (_running, mut runtime) = host.begin(Vec::new());
        for (group, asked, expected) in [
            (&guaranteed, None, is("0", "0")),
            (&burstable, None, is("3", "0")),
            (&best_effort, None, is("7", "1")),
            (&guaranteed, Some("7"), is("7", "1")),
            (&best_effort, Some("1"), is("1", "0")),
            (&burstable, Some("5"), is("5", "0")),
        ] {
            let group = format!("{group}{}", "x".repeat(asked.map_or(0, str::len)));
            let group = group.replace(".slicex", "x.slice");
            host.add(&group);
            let sandbox = asked.map_or(pod(&group, &[]), |asked| asks(&group, asked));
            runtime.event(RUN, &sandbox).unwrap();
            assert_eq!(host.has(&group), expected, "{group}");
            assert_eq!(
                runtime.create(&sandbox).unwrap(),
                CreateContainerResponse::default()
            );
            runtime.event(START, &sandbox).unwrap();
            assert_eq!(host.has(&group), expected, "{group}");
            // Weights are kubelet's.
            assert_eq!(host.read(&group, "cpu.weight"), "39");
        }
    }
}

/// With the slice's name alone, by a method for each event, and with the first container only:
/// as other versions of kubelet, NRI and CRI do it.
#[test]
fn other_versions_tell_it_otherwise() {
    let host = Host::new();
    let (_running, mut runtime) = host.begin(Vec::new());
    let group = slice(BEST_EFFORT, "1");
    host.add(&group);
    let mut sandbox = pod(&group, &[]);
    sandbox.linux.as_mut().unwrap().cgroup_parent = "kubepods-besteffort-pod1.slice".into();
    let request = PodRequest { pod: Some(sandbox) }.encode_to_vec();
    runtime.ask("RunPodSandbox", request.clone()).unwrap();
    assert_eq!(host.has(&group), is("7", "1"));
    // The group comes with the first container, where no kubelet made it.
    let late = slice(BEST_EFFORT, "2");
    runtime.event(RUN, &asks(&late, "6")).unwrap();
    host.add(&late);
    runtime.event(START, &asks(&late, "6")).unwrap();
    assert_eq!(host.has(&late), is("6", "0"));
    runtime.ask("RemovePodSandbox", request).unwrap();
    runtime.ask("Shutdown", Vec::new()).unwrap();
}

#[test]
fn what_cant_be_is_refused_in_one_line_and_changes_nothing() {
    let host = Host::new();
    let (running, mut runtime) = host.begin(Vec::new());
    let group = slice(BURSTABLE, "1");
    host.add(&group);
    until("the class", || host.has(&group) == is("3", "0"));
    for value in ["8", "-1", "", "high\nlow"] {
        let (code, said) = runtime.event(RUN, &asks(&group, value)).unwrap_err();
        assert_eq!(code, 3);
        let begin =
            "vmfirst nri: pod shop/kubepods-burstable-pod1.slice: annotation vmfirst.io/priority: ";
        assert!(said.starts_with(begin) && !said.contains('\n'), "{said}");
        until("the note", || {
            running.has_said(&said["vmfirst nri: ".len()..])
        });
        assert_eq!(host.has(&group), is("3", "0"));
    }
    // A group of somebody else's is nobody's pod.
    host.add("system.slice");
    for parent in ["system.slice", "kubepods.slice", "../etc", ""] {
        runtime.event(RUN, &asks(parent, "7")).unwrap();
    }
    for group in ["system.slice", "kubepods.slice", BURSTABLE] {
        assert_eq!(host.has(group), is("", "0"), "{group}");
    }
}

/// Kubelet and systemd write what they know again: the pod's group has its values back without
/// a question of the runtime's, and the groups around it are kubelet's.
#[test]
fn rewrites_are_written_over() {
    let host = Host::new();
    let (_running, mut runtime) = host.begin(Vec::new());
    let group = slice(BEST_EFFORT, "1");
    host.add(&group);
    runtime.event(RUN, &pod(&group, &[])).unwrap();
    for _ in 0..3 {
        fs::write(host.group(BEST_EFFORT).join("cpu.weight"), "1\n").unwrap();
        fs::write(host.group(&group).join("cpu.idle"), "0\n").unwrap();
        until("idle again", || host.has(&group) == is("7", "1"));
    }
    for around in ["kubepods.slice", BEST_EFFORT] {
        assert_eq!(host.has(around), is("", "0"));
    }
    assert_eq!(host.read(BEST_EFFORT, "cpu.weight"), "1");
}

#[test]
fn a_restart_goes_on_and_an_end_puts_back() {
    let host = Host::new();
    let groups = ["1", "2", "3"].map(|id| slice(BURSTABLE, id));
    groups.iter().for_each(|group| host.add(group));
    let pods: Vec<_> = groups.iter().map(|group| asks(group, "7")).collect();
    let (running, mut runtime) = host.begin(Vec::new());
    pods.iter()
        .for_each(|pod| drop(runtime.event(RUN, pod).unwrap()));
    running.kill();
    drop(runtime);
    // An operator changes one, and one ends, while nobody looks.
    host.set(&groups[1], "2");
    fs::remove_dir_all(host.group(&groups[2])).unwrap();
    let (running, _runtime) = host.begin(pods[..2].to_vec());
    assert_eq!(host.has(&groups[0]), is("7", "1"));
    assert_eq!(host.has(&groups[1]), is("2", "0"));
    let mut service = running.kill();
    assert_eq!(service.restore("the test ends").unwrap(), 2);
    assert_eq!(host.has(&groups[0]), is("7", "0"));
    assert_eq!(host.read(&groups[0], "cpu.weight"), "39");
    assert_eq!(host.read(&groups[0], "memory.oom.group"), "0");
}

/// Without a runtime a pod has its class's priority; when one comes, what it asks for; and
/// when that goes and comes again, the same.
#[test]
fn groups_are_watched_where_no_runtime_tells() {
    let host = Host::new();
    let running = host.start();
    until("the note", || running.has_said("no runtime at"));
    let group = slice(BEST_EFFORT, "1");
    host.add(&group);
    until("its class", || host.has(&group) == is("7", "1"));
    let listener = host.listen();
    for _ in 0..2 {
        let mut runtime = Runtime::accept(&listener);
        runtime.synchronize(vec![asks(&group, "4")]);
        assert_eq!(host.has(&group), is("4", "0"));
        drop(runtime);
    }
    until("the note", || running.has_said("containerd 1.7.24 is gone"));
    assert_eq!(host.has(&group), is("4", "0"));
}

#[test]
fn a_list_comes_in_parts_and_is_long() {
    let host = Host::new();
    let listener = host.listen();
    let groups: Vec<_> = (0..100)
        .map(|id| slice(BURSTABLE, &id.to_string()))
        .collect();
    groups.iter().for_each(|group| host.add(group));
    let _running = host.start();
    let mut runtime = Runtime::accept(&listener);
    let pods = groups.iter().enumerate();
    let pods: Vec<_> = pods
        .map(|(n, group)| asks(group, &(n % 8).to_string()))
        .collect();
    for (part, more) in [(&pods[..60], true), (&pods[60..], false)] {
        let pods = part.to_vec();
        let request = SynchronizeRequest { pods, more }.encode_to_vec();
        let answer = runtime.ask("Synchronize", request).unwrap();
        let answer = SynchronizeResponse::decode(answer.as_slice()).unwrap();
        assert_eq!(answer.more, more);
    }
    for (n, group) in groups.iter().enumerate() {
        let (number, idle) = (n % 8, u8::from(n % 8 == 7));
        assert_eq!(
            host.has(group),
            is(&number.to_string(), &idle.to_string()),
            "{group}"
        );
    }
    let text = fs::read_to_string(host.at().join("run/vmfirst/nri-status.json")).unwrap();
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["runtime"], "containerd 1.7.24");
    let told = status["groups"].as_array().unwrap();
    assert_eq!(told.len(), 100);
    let of = |n: usize| {
        told.iter()
            .find(|g| g["group"] == format!("/{}", groups[n]))
            .unwrap()
    };
    assert_eq!(of(7)["pod"], "shop/kubepods-burstable-pod7.slice");
    // It counts beside pods of its class only.
    let reason = of(7)["cpu"]["reason"].as_str().unwrap();
    assert!(reason.contains("kubepods-burstable.slice only"), "{reason}");
    assert_eq!(of(3)["cpu"]["state"], "undeclared");
}

/// Who asks for more than its class gives, where that is forbidden: a new pod is refused, one
/// that runs goes on, and an operator's word is taken back.
#[test]
fn what_is_offline_stays_so_where_that_is_asked_for() {
    let host = Host::new();
    let groups = ["1", "2", "3"].map(|id| slice(BEST_EFFORT, id));
    groups.iter().for_each(|group| host.add(group));
    let listener = host.listen();
    let options = Options {
        keep_offline: true,
        ..host.options()
    };
    let running = host.start_with(options);
    let mut runtime = Runtime::accept(&listener);
    runtime.synchronize(vec![asks(&groups[0], "2")]);
    assert_eq!(host.has(&groups[0]), is("7", "1"));
    // Its containers may be made and start, as they did before.
    runtime.create(&asks(&groups[0], "2")).unwrap();
    runtime.event(START, &asks(&groups[0], "2")).unwrap();
    assert_eq!(host.has(&groups[0]), is("7", "1"));
    let (code, said) = runtime.event(RUN, &asks(&groups[1], "6")).unwrap_err();
    assert!(code == 3 && said.contains("stays offline"), "{said}");
    runtime.event(RUN, &pod(&groups[2], &[])).unwrap();
    host.set(&groups[2], "0");
    runtime.event(START, &pod(&groups[2], &[])).unwrap();
    assert_eq!(host.has(&groups[2]), is("7", "1"));
    until("the note", || running.has_said("priority 0 is refused"));
    // Who isn't offline may be raised, and lowered.
    let group = slice(BURSTABLE, "1");
    host.add(&group);
    runtime.event(RUN, &asks(&group, "0")).unwrap();
    host.set(&group, "7");
    runtime.event(START, &asks(&group, "0")).unwrap();
    assert_eq!(host.has(&group), is("7", "1"));
}

#[test]
fn the_view_is_mounted_where_a_pod_asks_for_it() {
    let host = Host::new();
    let (_running, mut runtime) = host.begin(Vec::new());
    let groups = ["1", "2"].map(|id| slice(BURSTABLE, id));
    groups.iter().for_each(|group| host.add(group));
    let sees = |group: &String, whose| pod(group, &[("vmfirst.io/view", whose)]);
    let (code, said) = runtime.event(RUN, &sees(&groups[0], "pod")).unwrap_err();
    assert!(
        code == 9 && said.contains("systemctl start vmfirst-view"),
        "{said}"
    );
    let mounts = host.at().join("proc/self/mountinfo");
    let before = fs::read_to_string(&mounts).unwrap();
    let fuse = "90 1 0:50 / /var/lib/lxcfs rw,nosuid - fuse vmfirst rw,user_id=0\n";
    fs::write(&mounts, before + fuse).unwrap();
    for (group, whose, mark) in [
        (&groups[0], "pod", Some("1")),
        (&groups[1], "container", None),
    ] {
        runtime.event(RUN, &sees(group, whose)).unwrap();
        let found = host.attribute(group, "user.vmfirst.view");
        assert_eq!(found.as_deref(), mark);
        let adjust = runtime.create(&sees(group, whose)).unwrap().adjust.unwrap();
        let mounts = adjust.mounts.iter().map(|mount| {
            assert_eq!(
                (mount.kind.as_str(), mount.options[0].as_str()),
                ("bind", "bind")
            );
            (mount.destination.as_str(), mount.source.as_str())
        });
        let mounts: BTreeMap<_, _> = mounts.collect();
        assert_eq!(mounts.len(), 8);
        assert_eq!(mounts["/proc/meminfo"], "/var/lib/lxcfs/proc/meminfo");
        let cpus = "/sys/devices/system/cpu";
        assert_eq!(mounts[cpus], "/var/lib/lxcfs/sys/devices/system/cpu");
    }
}

/// Questions that are none are refused, and the connection goes on.
#[test]
fn questions_that_make_no_sense_are_refused() {
    let host = Host::new();
    let (_running, mut runtime) = host.begin(Vec::new());
    let not_text = [field(2, "x"), vec![1 << 3 | 2, 2, 0xff, 0xfe]].concat();
    for (method, payload, code) in [
        ("Explode", Vec::new(), 12),
        ("Synchronize", vec![0xff; 40], 3),
        ("StateChange", vec![2 << 3 | 2, 200, 1], 3),
        (
            "CreateContainer",
            [&[1 << 3 | 2, 8][..], &not_text].concat(),
            3,
        ),
    ] {
        let (found, said) = runtime.ask(method, payload).unwrap_err();
        assert_eq!(found, code, "{method}: {said}");
    }
    for event in [0, 2, 99, -1, i32::MAX] {
        runtime.event(event, &PodSandbox::default()).unwrap();
    }
    // A pod without anything, and no pod.
    assert_eq!(runtime.create(&PodSandbox::default()).unwrap().adjust, None);
    assert_eq!(runtime.ask("CreateContainer", Vec::new()), Ok(Vec::new()));
    assert_eq!(
        runtime.event(REMOVE, &PodSandbox::default()),
        Ok(Vec::new())
    );
}

/// A runtime that speaks something else is left, and tried again.
#[test]
fn a_broken_runtime_is_left_and_groups_are_watched() {
    let host = Host::new();
    let listener = host.listen();
    let running = host.start();
    let noise: Vec<u8> = (0..2000_u32).map(|n| ((n * 7919) >> 3) as u8).collect();
    let answer = Message {
        connection: wire::PLUGIN,
        stream: 1,
        kind: wire::RESPONSE,
        data: Vec::new(),
    };
    let refusal = Response {
        status: Some(vmfirst_host::nri::messages::Status {
            code: 3,
            message: "no\n\u{1b}[31mplugins".into(),
        }),
        payload: Vec::new(),
    };
    let refusal = Message {
        connection: wire::RUNTIME,
        data: refusal.encode_to_vec(),
        ..answer.clone()
    };
    for (bytes, said) in [
        (noise, "it doesn't speak NRI"),
        (answer.encode(), "an answer without a question"),
        (vec![0, 0, 0, 1, 0xff, 0, 0, 0], "a frame of"),
        (refusal.encode(), "it refused: no\\n\\u{1b}[31mplugins"),
        (Vec::new(), "it closed the connection"),
    ] {
        let (mut runtime, _) = Runtime::registration(&listener);
        runtime.send(&bytes);
        drop(runtime);
        until(said, || running.has_said(said));
    }
    let group = slice(BEST_EFFORT, "1");
    host.add(&group);
    until("its class", || host.has(&group) == is("7", "1"));
    let mut runtime = Runtime::accept(&listener);
    runtime.synchronize(vec![pod(&group, &[])]);
    assert_eq!(host.has(&group), is("7", "1"));
}

/// One that asks and doesn't read is left, too.
#[test]
fn a_runtime_that_doesnt_read_holds_nothing_up() {
    let host = Host::new();
    let (running, mut runtime) = host.begin(Vec::new());
    runtime
        .stream
        .set_write_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let request = Request {
        service: PLUGIN_SERVICE.into(),
        method: "x".repeat(4000),
        payload: Vec::new(),
    };
    let bytes = runtime.message(wire::PLUGIN, wire::REQUEST, 1, &request);
    while !running.has_said("is gone") {
        let _ = runtime.stream.write(&bytes);
    }
    let group = slice(BEST_EFFORT, "1");
    host.add(&group);
    until("its class", || host.has(&group) == is("7", "1"));
}

/// A VM of KubeVirt's, after its documentation and source: QEMU and its libvirt run in the
/// container "compute" of a pod of class Burstable, with those threads that are no vCPUs in a
/// group within for VMs that have CPUs to themselves. The pod's priority is around all of them.
#[test]
fn a_vm_of_kubevirts_has_its_pods_priority() {
    let host = Host::new();
    let group = slice(BURSTABLE, "0b1c_2d");
    let container = format!("{group}/cri-containerd-{}.scope", "7".repeat(64));
    let housekeeping = format!("{container}/housekeeping");
    for group in [&group, &container, &housekeeping] {
        host.add(group);
    }
    tree::Process {
        pid: 77,
        exe: Some("/usr/libexec/qemu-kvm"),
        arguments: &[
            "/usr/libexec/qemu-kvm",
            "-name",
            "guest=shop_web,debug-threads=on",
        ],
        group: &format!("/{container}"),
        vcpus: Some(2),
        threads: &["qemu-kvm", "CPU 0/KVM", "CPU 1/KVM"],
    }
    .write(host.at());
    let found = vmfirst_host::model::find(&host.root);
    assert_eq!(
        found.vms[0].pod.as_deref(),
        Some("0b1c-2d"),
        "{:?}",
        found.notes
    );
    let vms = found.vms[0].cgroup.as_deref().unwrap();
    assert_eq!(vms, format!("/{container}"));
    let (_running, mut runtime) = host.begin(Vec::new());
    let mut launcher = asks(&group, "7");
    launcher.name = "virt-launcher-web-x7k2p".into();
    runtime.event(RUN, &launcher).unwrap();
    assert_eq!(host.has(&group), is("7", "1"));
    // Within the pod nothing is changed: it is one VM.
    for within in [&container, &housekeeping] {
        assert_eq!(host.has(within), is("", "0"));
    }
}

fn vmfirst(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_vmfirst");
    Command::new(program).args(arguments).output().unwrap()
}

#[test]
fn mistakes_get_one_line() {
    for wrong in [
        &["nri", "--index", "100"][..],
        &["nri", "--json"],
        &["nri", "--status", "--restore"],
        &["nri", "--status"],
        &["nri", "--check", "--config", "/no/such"],
    ] {
        let output = vmfirst(wrong);
        assert!(!output.status.success(), "{wrong:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    }
}

/// By Kubernetes's own schema, and by what the program understands.
#[test]
fn the_manifest_is_a_daemon_set() {
    let manifest =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/kubernetes/vmfirst-nri.yaml");
    let text = fs::read_to_string(&manifest).unwrap();
    assert!(text.contains("args: [\"nri\"]"));
    assert!(text.contains("[\"/usr/bin/vmfirst\", \"nri\", \"--status\", \"--json\"]"));
    let Some(checker) = checker() else {
        eprintln!("SKIP: python3 with venv is not installed");
        return;
    };
    let check = |manifest: &Path| {
        let mut checker = Command::new(&checker);
        checker.args(["--strict", "-k", "1.32"]).arg(manifest);
        checker.output().unwrap()
    };
    let output = check(&manifest);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    // It tells a mistake.
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.yaml");
    fs::write(&wrong, text.replace("hostPath:", "hostPaths:")).unwrap();
    assert!(!check(&wrong).status.success());
}

/// kubernetes-validate of PyPI, installed once.
fn checker() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubernetes-validate-1.37.0");
    let checker = folder.join("bin/kubernetes-validate");
    if checker.exists() {
        return Some(checker);
    }
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(&folder);
    if !venv.output().is_ok_and(|output| output.status.success()) {
        return None;
    }
    let mut pip = Command::new(folder.join("bin/pip"));
    let installed = pip
        .args(["install", "--quiet", "kubernetes-validate==1.37.0"])
        .output();
    let installed = installed.unwrap();
    assert!(
        installed.status.success(),
        "{}",
        String::from_utf8_lossy(&installed.stderr)
    );
    Some(checker)
}
