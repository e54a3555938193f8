//! Whose a control group is, before it is weighed or limited for a VM.

mod tree;

use std::fs;

use tree::Process;
use vmfirst_host::Error;
use vmfirst_host::model::find;
use vmfirst_host::steer::Wishes;

/// What becomes of a wish for a group's weight when a process with this parent is in it, too.
fn beside(parent: i32) -> Result<usize, Error> {
    let (folder, root) = tree::host();
    let process = |pid, threads, vcpus| Process {
        pid,
        exe: Some("/usr/bin/vmm"),
        arguments: &["/usr/bin/vmm", "run", "--name", "web"],
        group: "/vmm.slice/vmm@web.service",
        vcpus,
        threads,
    };
    process(100, &["vmm", "vcpu0"], Some(1)).write(folder.path());
    process(200, &["exe"], None).write(folder.path());
    let stat = folder.path().join("proc/200/task/200/stat");
    let text = fs::read_to_string(&stat).unwrap();
    fs::write(&stat, text.replace(" S 1 ", &format!(" S {parent} "))).unwrap();
    let group = folder
        .path()
        .join("sys/fs/cgroup/vmm.slice/vmm@web.service");
    fs::create_dir_all(&group).unwrap();
    fs::write(group.join("cgroup.procs"), "100\n200\n").unwrap();
    let wishes = Wishes {
        cpu_weight: Some("50".parse().unwrap()),
        ..Wishes::default()
    };
    let writes = wishes.writes(&root, &find(&root).vms[0]);
    writes.map(|writes| writes.len())
}

#[test]
fn a_process_that_the_vmm_has_started_is_no_stranger() {
    assert_eq!(beside(100).unwrap(), 1);
    let refused = beside(1).unwrap_err().to_string();
    assert!(refused.contains("with 1 other processes"), "{refused}");
}
