//! The page docs/first-ten-minutes.md: every command is run as it is printed, and what the page
//! says of it is so.

use std::fs;

use testbed::workshop::repo;

use crate::{after, said};

/// Three vCPUs that spin on two CPUs: somebody waits.
const BEFORE: &str = "
start web 2
start batch 1
# Until the firmware is through and the vCPUs spin.
sleep 2
echo \"kernel $(uname -r)\"
";

/// The kernel's word on what is set, what must fail, and what `virsh` calls the VMs.
const AFTER: &str = r#"
echo "==== check"
scope=$(ls -d /sys/fs/cgroup/machine.slice/machine-qemu*web.scope)
echo "back $(cat $scope/cpu.weight)"
vmfirst set web --cpu-weight 300 --cpu-max 50% --vcpu-class rr:2 > /dev/null
echo "weight $(cat $scope/cpu.weight)"
echo "max $(cat $scope/cpu.max)"
vmfirst set web --cpu-weight 100 --vcpu-affinity 0=0,1=77 2>&1
echo "kept $(cat $scope/cpu.weight)"
vmfirst set web --vcpu-class vmf 2>&1
printf "json %s\n" "$(vmfirst list --json web)"
vmfirst stat --prometheus web | grep '^vmfirst_vm_cpu_periods'
virsh destroy batch
virsh destroy web
vmfirst list web 2>&1
"#;

fn page() -> String {
    fs::read_to_string(repo().join("docs/first-ten-minutes.md")).unwrap()
}

/// The commands of a page's blocks marked "sh".
fn commands(page: &str) -> Vec<&str> {
    let mut inside = false;
    let lines = page.lines().filter(|line| {
        match *line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ => return inside,
        }
        false
    });
    lines.collect()
}

pub fn script() -> String {
    let page = page();
    let run = |command| format!("echo '==== run {command}'\n{command}\necho \"==== status $?\"\n");
    let commands: String = commands(&page).into_iter().map(run).collect();
    BEFORE.to_string() + &commands + AFTER
}

/// What each command of the page printed.
struct Outputs<'a> {
    commands: Vec<&'a str>,
    outputs: Vec<&'a str>,
}

impl<'a> Outputs<'a> {
    fn new(page: &'a str, said: &'a str) -> Self {
        let commands = commands(page);
        let outputs: Vec<_> = said.split("==== run ").skip(1).collect();
        assert_eq!(outputs.len(), commands.len(), "{said}");
        Self { commands, outputs }
    }

    fn of(&self, command: &str) -> &'a str {
        let at = self.commands.iter().position(|c| *c == command);
        self.outputs[at.unwrap_or_else(|| panic!("not in the page: {command}"))]
    }

    /// What a command printed has all of these.
    fn expect(&self, command: &str, words: &[&str]) {
        let output = self.of(command);
        for word in words {
            assert!(output.contains(word), "{word}: {output}");
        }
    }
}

#[test]
fn every_command_of_the_page_works() {
    let page = page();
    let said = said("ten_minutes");
    assert!(after(said, "kernel ").starts_with("6.12."), "{said}");
    let outputs = Outputs::new(&page, said);
    assert!(outputs.commands.len() >= 15, "{:?}", outputs.commands);
    for (output, command) in outputs.outputs.iter().zip(&outputs.commands) {
        let right = output.starts_with(command) && output.contains("==== status 0");
        assert!(right, "{output}");
    }
    listed(&outputs);
    counted(&outputs);
    changed(&outputs);
}

/// A line for each VM, with libvirt's name, and one for each thread, with its role.
fn listed(outputs: &Outputs) {
    let list = outputs.of("vmfirst list");
    for (name, vcpus) in [("web", "2"), ("batch", "1")] {
        let line = list.lines().find(|line| line.starts_with(name));
        let words: Vec<_> = line.unwrap_or(list).split_whitespace().collect();
        assert_eq!(
            (words[1], words[3], words[4]),
            ("libvirt", vcpus, "fair"),
            "{list}"
        );
        assert!(words[6].contains("/machine.slice/machine-qemu"), "{list}");
    }
    let threads = outputs.of("vmfirst list --threads web");
    let roles = ["vcpu 0", "vcpu 1", "io ", "vhost ", "kvm ", "main "];
    for role in roles {
        assert!(threads.contains(role), "{role}: {threads}");
    }
}

/// Who waits for more than a tenth of the time is marked, and the host's idle time is told.
fn counted(outputs: &Outputs) {
    outputs.expect("vmfirst stat", &["2 CPUs, 0.0", "READY%", "!!"]);
    let watched = outputs.of("vmfirst stat --watch=1 --count=2 web");
    assert_eq!(watched.matches("2 CPUs, ").count(), 2, "{watched}");
    let metrics = [
        "vmfirst_vcpu_run_delay_seconds_total{vm=\"web\",vcpu=\"1\"}",
        "vmfirst_vm_kvm_total{vm=\"web\",counter=\"exits\"}",
    ];
    outputs.expect("vmfirst stat --prometheus", &metrics);
}

/// Each change is told, and what is undone is as before.
fn changed(outputs: &Outputs) {
    outputs.expect(
        "vmfirst set web --cpu-weight 400",
        &["cpu.weight: 100 -> 400"],
    );
    let slice = outputs.of("vmfirst set web --vcpu-slice 0.5ms");
    assert_eq!(slice.matches("-> 500us").count(), 2, "{slice}");
    outputs.expect("vmfirst set batch --vcpu-class idle", &["fair -> idle"]);
    outputs.expect(
        "vmfirst set web --vcpu-class fair --vcpu-slice default --dry-run",
        &["slice of vCPU 1 of VM web -> default"],
    );
    outputs.expect(
        "vmfirst set web --cpu-weight 100 --vcpu-slice default",
        // That the trial run changed nothing is seen here, too.
        &["cpu.weight: 400 -> 100", "500us -> default"],
    );
    outputs.expect("vmfirst set batch --vcpu-class fair", &["idle -> fair"]);
    let lacks = ["halt_poll_ns", "would change", "not in a stock kernel"];
    outputs.expect("vmfirst tune dense", &lacks);
    outputs.expect("vmfirst tune dense --apply", &["vmfirst tune --undo"]);
    let knob = "/sys/module/kvm/parameters/halt_poll_ns: 0 -> ";
    outputs.expect("vmfirst tune --undo", &[knob]);
}

#[test]
fn what_is_set_is_the_kernels_and_what_fails_leaves_all_as_it_was() {
    let (_, check) = said("ten_minutes").split_once("==== check").unwrap();
    assert_eq!(after(check, "back "), "100");
    assert_eq!(after(check, "weight "), "300");
    assert_eq!(after(check, "max "), "50000 100000");
    let refused = "vCPU 1 of VM web cannot run on CPUs 77";
    assert!(check.contains(refused), "{check}");
    assert_eq!(after(check, "kept "), "300");
    let lacking = "this kernel has no scheduling class vmf";
    assert!(check.contains(lacking), "{check}");
    let json = after(check, "json ");
    assert_eq!(json.matches("\"class\":\"rr:2\"").count(), 2, "{json}");
    let periods = after(check, "vmfirst_vm_cpu_periods_total{vm=\"web\"} ");
    assert_ne!(periods, "0", "{check}");
    assert!(check.contains("no VM is called web"), "{check}");
}
