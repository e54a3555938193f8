//! Surroundings that want harm, or vanish.

mod tree;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tree::Process;
use vmfirst_host::Error;
use vmfirst_host::act::{Cgroup, Class, Door, Target, Write};
use vmfirst_host::model::{Sampler, find, shown};
use vmfirst_host::read::Root;
use vmfirst_host::steer::Wishes;

/// A VM with one vCPU, whose name tells it.
const FIRECRACKER: Process = Process {
    pid: 100,
    exe: Some("/srv/firecracker"),
    arguments: &["firecracker", "--id", "a"],
    group: "/a",
    vcpus: Some(1),
    threads: &["firecracker", "fc_vcpu 0"],
};

/// A thread of this process that waits meanwhile, as a target; it ends when it's dropped.
struct Waiting {
    target: Target,
    end: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn waiting() -> Waiting {
    let (tid, tids) = std::sync::mpsc::channel();
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        tid.send(rustix::thread::gettid().as_raw_nonzero().get())
            .unwrap();
        let _ = ends.recv();
    });
    let (pid, tid) = (std::process::id() as i32, tids.recv().unwrap());
    let start = Root::default().stat(pid, tid).unwrap().starttime;
    let label = "vCPU 0 of VM test".into();
    Waiting {
        target: Target {
            pid,
            tid,
            start,
            label,
        },
        end: Some(end),
        thread: Some(thread),
    }
}

impl Waiting {
    fn class(&self) -> String {
        Class::of(self.target.tid).unwrap()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.end.take();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn door() -> Door {
    let pid = std::process::id() as i32;
    let start = Root::default().stat(pid, pid).unwrap().starttime;
    Door::open(pid, start, "VM test".into()).unwrap()
}

#[test]
fn a_name_with_control_characters_is_printed_harmlessly() {
    let (folder, root) = tree::host();
    Process {
        pid: 100,
        exe: Some("/usr/bin/qemu-system-x86_64"),
        arguments: &[
            "qemu-system-x86_64",
            "-name",
            "guest=\u{1b}[2Jweb\n\u{202e}",
        ],
        group: "/a",
        vcpus: Some(1),
        // A thread's name may have what looks like the end of the field.
        threads: &["qemu) S 1 (\u{1b}]0;x\u{7}", "CPU 0/KVM"],
    }
    .write(folder.path());
    let vms = find(&root).vms;
    assert_eq!(vms.len(), 1);
    assert!(
        vms[0]
            .tasks
            .iter()
            .any(|task| task.name == "qemu) S 1 (\u{1b}]0;x\u{7}")
    );
    for text in [shown(&vms[0].name), shown(&vms[0].tasks[1].name)] {
        assert!(
            !text.chars().any(|c| c.is_control() || c == '\u{202e}'),
            "{text:?}"
        );
    }
    let sample = Sampler::new(root.clone()).look(&vms);
    let text = vmfirst_host::cli::prometheus::text(&root, &vms, &sample);
    assert!(
        !text.chars().any(|c| c.is_control() && c != '\n'),
        "{text:?}"
    );
    prometheus_parse::Scrape::parse(text.lines().map(|l| Ok(l.to_string()))).unwrap();
}

#[test]
fn a_process_whose_id_is_anothers_by_now_is_left_alone() {
    let pid = std::process::id() as i32;
    let start = Root::default().stat(pid, pid).unwrap().starttime;
    let error = Door::open(pid, start + 1, "VM web".into()).err().unwrap();
    assert!(error.is_gone(), "{error}");
}

#[test]
fn a_thread_whose_id_is_anothers_by_now_is_left_alone() {
    let thread = waiting();
    let mut other = thread.target.clone();
    other.start += 1;
    let error = door()
        .write(vec![Write::Class(other, Class::Batch)])
        .unwrap_err();
    assert!(error.is_gone(), "{error}");
    assert_eq!(thread.class(), "fair");
}

/// Between the look at a VM and the write one of its threads ends.
#[test]
fn a_thread_that_vanished_undoes_what_came_before_it() {
    let first = waiting();
    let gone = waiting().target.clone();
    let writes = vec![
        Write::Class(first.target.clone(), Class::Batch),
        Write::Class(gone, Class::Batch),
    ];
    let error = door().write(writes).unwrap_err();
    assert_eq!(error.to_string(), "vCPU 0 of VM test has ended");
    assert_eq!(first.class(), "fair");
}

#[test]
fn a_group_that_vanished_undoes_what_came_before_it() {
    let thread = waiting();
    let group = Cgroup::at("/no/such/group");
    let writes = vec![
        Write::Class(thread.target.clone(), Class::Batch),
        Write::Group(group, "cpu.weight".into(), "50".into()),
    ];
    let error = door().write(writes).unwrap_err();
    assert!(error.is_gone(), "{error}");
    assert_eq!(thread.class(), "fair");
}

/// A file that takes what is written and has another value; beside it one that obeys.
#[test]
fn a_group_that_has_another_value_is_put_back_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cpu.weight"), "100\n").unwrap();
    symlink("/dev/null", folder.path().join("cpu.max")).unwrap();
    let group = Cgroup::at(folder.path());
    let write = |file: &str, value: &str| Write::Group(group.clone(), file.into(), value.into());
    let error = door()
        .write(vec![write("cpu.weight", "50"), write("cpu.max", "max")])
        .unwrap_err();
    assert!(
        error.to_string().contains("was set to max and has"),
        "{error}"
    );
    let weight = fs::read_to_string(folder.path().join("cpu.weight")).unwrap();
    assert_eq!(weight.trim(), "100");
}

#[test]
fn a_read_only_cgroupfs_is_one_line() {
    use rustix::mount::{
        MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount,
    };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cpu.weight"), "100\n").unwrap();
    let path = folder.path().to_path_buf();
    let thread = waiting();
    let target = thread.target.clone();
    // In a mount namespace of one thread.
    let written = std::thread::spawn(move || {
        // SAFETY: only this thread's view of mounts becomes its own.
        let alone = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) };
        let ready = alone
            .and_then(|()| {
                mount_change(
                    "/",
                    MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
                )
            })
            .and_then(|()| mount_bind(&path, &path))
            .and_then(|()| mount_remount(&path, MountFlags::BIND | MountFlags::RDONLY, ""));
        ready.ok()?;
        let write = Write::Group(Cgroup::at(&path), "cpu.weight".into(), "50".into());
        Some(
            door()
                .write(vec![Write::Class(target, Class::Batch), write])
                .unwrap_err()
                .to_string(),
        )
    });
    let Some(error) = written.join().unwrap() else {
        eprintln!("SKIP: no mount namespace may be made");
        return;
    };
    assert!(
        error.contains("mounted read-only here") && error.lines().count() == 1,
        "{error}"
    );
    assert_eq!(thread.class(), "fair");
    assert_eq!(
        fs::read_to_string(folder.path().join("cpu.weight")).unwrap(),
        "100\n"
    );
}

#[test]
fn hosts_with_cgroup_v1_are_told_from_those_with_v2() {
    let (_folder, v2) = tree::host();
    let found = v2.hierarchy().unwrap();
    assert!(found.cpu && !found.v1 && !found.read_only, "{found:?}");
    let (_folder, hybrid) = tree::of(
        "proc/self/mountinfo = 32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\\n\
         41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\\n\n\
         sys/fs/cgroup/unified/cgroup.controllers = \\n\n",
    );
    let found = hybrid.hierarchy().unwrap();
    assert!(!found.cpu && found.v1, "{found:?}");
    assert_eq!(found.v2.as_deref(), Some("/sys/fs/cgroup/unified"));
    // systemd's own hierarchy on v1 has no controller.
    let (_folder, named) = tree::of(
        "proc/self/mountinfo = 40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\\n\
         41 31 0:38 / /sys/fs/cgroup/unified ro - cgroup2 cgroup2 ro\\n\n\
         sys/fs/cgroup/unified/cgroup.controllers = cpu\\n\n",
    );
    let found = named.hierarchy().unwrap();
    assert!(found.cpu && !found.v1 && found.read_only, "{found:?}");
}

/// All of /proc may vanish under the reader.
#[test]
fn what_vanishes_between_two_looks_is_left_out() {
    let (folder, root) = tree::host();
    FIRECRACKER.write(folder.path());
    let vms = find(&root).vms;
    remove(folder.path(), "proc/100/task/101");
    let sample = Sampler::new(root.clone()).look(&vms);
    assert!(sample.vms[&(100, 1000)].tasks.is_empty());
    assert_eq!(find(&root).vms[0].vcpu_tasks().count(), 0);
    remove(folder.path(), "proc/100");
    assert!(find(&root).vms.is_empty());
    remove(folder.path(), "proc");
    assert!(find(&root).vms.is_empty());
}

fn remove(root: &Path, path: &str) {
    fs::remove_dir_all(root.join(path)).unwrap();
}

/// Truncated and senseless files are errors or nothing, never a panic.
#[test]
fn files_that_make_no_sense_are_no_vms() {
    let (folder, root) = tree::host();
    Process {
        arguments: &["firecracker", "--id"],
        threads: &["firecracker", "fc_vcpu 99999999999"],
        ..FIRECRACKER
    }
    .write(folder.path());
    assert_eq!(find(&root).vms[0].name, "firecracker-100");
    for text in ["", "100", "100 (", "100 (a) S", "\u{0}", "100 (a) S 1 2 x"] {
        fs::write(folder.path().join("proc/100/task/100/stat"), text).unwrap();
        assert!(find(&root).vms.is_empty(), "{text:?}");
    }
}

#[test]
fn what_is_not_gone_says_why() {
    let error: Error = Cgroup::at("/proc/self").set("no.such", "1").unwrap_err();
    assert!(error.to_string().contains("has no no.such"), "{error}");
}

/// After Secure Boot KVM's folders are listed, and their counters can't be opened.
#[test]
fn a_kernel_that_is_locked_down_is_one_line() {
    let (folder, root) = tree::host();
    FIRECRACKER.write(folder.path());
    // Root could open a file of any mode here: a folder can't be read as one.
    let exits = folder.path().join("sys/kernel/debug/kvm/100-11/exits");
    fs::create_dir_all(&exits).unwrap();
    let lockdown = folder.path().join("sys/kernel/security/lockdown");
    fs::create_dir_all(lockdown.parent().unwrap()).unwrap();
    for (text, lines) in [
        ("none [integrity] confidentiality\n", 1),
        ("[none] integrity\n", 0),
    ] {
        fs::write(&lockdown, text).unwrap();
        let found = find(&root);
        let told = found
            .notes
            .iter()
            .filter(|note| note.contains("Secure Boot"));
        assert_eq!(told.count(), lines, "{:?}", found.notes);
        // What still works.
        assert_eq!(found.vms[0].vcpu_tasks().count(), 1);
        let sample = Sampler::new(root.clone()).look(&found.vms);
        let look = &sample.vms[&(100, 1000)];
        assert!(look.kvm.is_empty() && !look.tasks.is_empty());
    }
}

/// No debugfs: one line, and vCPUs are known by name.
#[test]
fn without_debugfs_there_is_one_line() {
    let (folder, root) = tree::host();
    FIRECRACKER.write(folder.path());
    let found = find(&root);
    assert_eq!(found.notes.len(), 1, "{:?}", found.notes);
    assert!(found.notes[0].contains("debugfs") && found.notes[0].lines().count() == 1);
    assert_eq!(found.vms[0].vcpu_tasks().count(), 1);
}

/// cgroup v1, and none: a line that says what still works, before anything is written.
#[test]
fn weights_without_cgroup_v2_are_refused_with_what_works() {
    let v1 = "proc/self/mountinfo = 32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\\n\n\
              proc/2/task/2/comm = kthreadd\\n\n";
    let hybrid = "proc/self/mountinfo = 32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\\n\
                  41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\\n\n\
                  sys/fs/cgroup/unified/cgroup.controllers = \\n\n";
    for (text, why) in [(v1, "isn't mounted"), (hybrid, "on cgroup v1 here")] {
        let (folder, root) = tree::of(text);
        FIRECRACKER.write(folder.path());
        let vms = find(&root).vms;
        let wishes = Wishes {
            vcpu_class: Some(Class::Batch),
            cpu_weight: Some("50".parse().unwrap()),
            ..Wishes::default()
        };
        let error = wishes.writes(&root, &vms[0]).unwrap_err().to_string();
        assert!(
            error.contains(why) && error.contains("cookies work"),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1);
        // Without the weight it can be done.
        let wishes = Wishes {
            cpu_weight: None,
            ..wishes
        };
        assert_eq!(wishes.writes(&root, &vms[0]).unwrap().len(), 1);
    }
}

/// libvirt's and systemd's record of a machine ends with its scope.
#[test]
fn a_machine_of_libvirts_is_not_moved_out_of_its_scope() {
    let (folder, root) = tree::host();
    Process {
        pid: 100,
        exe: Some("/usr/bin/qemu-system-x86_64"),
        arguments: &["qemu-system-x86_64", "-name", "guest=web"],
        group: r"/machine.slice/machine-qemu\x2d3\x2dweb.scope/libvirt/emulator",
        vcpus: Some(1),
        threads: &["qemu-system-x86", "CPU 0/KVM"],
    }
    .write(folder.path());
    let vms = find(&root).vms;
    let wishes = Wishes {
        cgroup: Some(Cgroup::at(folder.path())),
        ..Wishes::default()
    };
    let error = wishes.writes(&root, &vms[0]).unwrap_err().to_string();
    assert!(error.contains("<partition>"), "{error}");
}
