//! The options of `vmm run`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::console::ConsoleArg;
use super::cpu::CpuArg;
use super::disk::DiskArg;
use super::memory::MemoryArg;
use super::values::{Cmdline, Cpus, Id, LaunchText, NetArg, Pv, Seccomp, Size, VmName, VsockArg};
use crate::sched::{Affinity, Change, Class, CoreSched, CpuMax, CpuWeight, Layout, Slice, Uclamp};

/// How long a guest may take to power off, in seconds.
pub const STOP_TIMEOUT: u32 = 10;
/// How long a guest may run in its launch class, in seconds.
pub const LAUNCH_LIMIT: u32 = 60;

/// The options of `vmm run`. What is not given is absent until [`RunArgs::or_default`].
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RunArgs {
    /// Name under which the machine is listed and steered; only one of a name runs at a time
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<VmName>,
    /// Kernel: a bzImage or an ELF vmlinux
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Initial ram disk
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line [default: console=ttyS0]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<Cmdline>,
    /// Virtual CPUs, 1 to 255 [default: 1]
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpus>,
    /// What they have beyond the ordinary, where the host has it: "nested" virtual machines of
    /// the guest's own, "pmu" performance counters
    #[arg(long, value_name = "nested,pmu")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuArg>,
    /// Memory, as 256M or 2G [default: 256M]
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem: Option<Size>,
    /// The same as --mem, and how the host has it: "1G,reporting=on,thp=on,ksm=on". With
    /// reporting the guest gives back what it has freed (virtio-balloon); thp=on or off asks
    /// for huge pages or none; ksm lets the host keep equal pages of machines once, which
    /// lets their guests find out what others have
    #[arg(long, value_name = "SIZE,KEY=on|off,...")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryArg>,
    /// KVM's paravirtual features that the guest sees [default: all]
    #[arg(long, value_name = "SET")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pv: Option<Pv>,
    /// Raw disk image, /dev/vda and so on in the guest; with ",ro" read-only. With more keys:
    /// "path=FILE,ro,discard=off,direct,id=NAME"; discard=off keeps the blocks that the guest
    /// gives up, direct bypasses the host's page cache, the guest reads id as the serial
    /// number; a comma in FILE is written twice [may be repeated]
    #[arg(long = "disk", value_name = "FILE[,ro]|path=FILE,...")]
    #[serde(rename = "disk", default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskArg>,
    /// Network device on a tap that the host has made: "tap=vmtap0", or with the guest's
    /// address "tap=vmtap0,mac=02:00:00:00:00:01" [may be repeated]
    #[arg(long = "net", value_name = "tap=NAME[,mac=ADDRESS]")]
    #[serde(rename = "net", default, skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<NetArg>,
    /// Sockets between host and guest: the guest's address (3 or more), and the host's
    /// end. Programs of the host connect to it and write "CONNECT PORT" in a line; the
    /// guest's connections to port P of address 2 go to FILE_P
    #[arg(long, value_name = "cid=N,socket=FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockArg>,
    /// Where the guest's serial console is: "stdio"; "socket" for `vmm console NAME`, or
    /// "socket=PATH"; "file=PATH,limit=1M" keeps the last that was printed and reads nothing;
    /// "none". What nobody takes in time is dropped, and counted [default: stdio]
    #[arg(long, value_name = "PLACE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<ConsoleArg>,
    /// Give the guest a source of random bytes, the host's
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(value_name = "BOOL", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rng: Option<bool>,
    /// What a system call does for which this program has no use: "on" ends it, with "log"
    /// the kernel's log tells of it (type=1326) [default: on]
    #[arg(long, value_name = "on|log|off", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    /// User to become when all files and devices are open, as 65534; needs --gid
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<Id>,
    /// Group to become, the only one; needs --uid
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<Id>,
    /// All that is seen of the file system from then on, best an empty folder; needs --uid
    #[arg(long, value_name = "FOLDER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chroot: Option<PathBuf>,
    /// Started by root, stay root while the guest runs, without a warning
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(value_name = "BOOL", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stay_root: Option<bool>,
    /// Scheduling class of the vCPUs' threads: fair, batch, idle, vmf, bt, or rr and fifo, also
    /// with a priority as rr:PRIORITY. A guest in rr or fifo can take 95 % of each of its CPUs
    /// from the host's own tasks [default: the class that vmm itself has]
    #[arg(long, value_name = "CLASS", help_heading = "Scheduling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_class: Option<Class>,
    /// Where the kernel lacks a class, start no machine; without it a warning, and fair
    #[arg(long, help_heading = "Scheduling")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(value_name = "BOOL", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_class_strict: Option<bool>,
    /// Who may run beside the machine's threads on a core's other hardware threads: off
    /// (anybody), vm (its own threads), vcpu (nobody) [default: vm where cores have several]
    #[arg(long, value_name = "off|vm|vcpu", hide_possible_values = true)]
    #[arg(help_heading = "Scheduling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core_sched: Option<CoreSched>,
    /// How long a vCPU of a fair class runs before others have their turn, as 3ms: 100us to
    /// 100ms [default: the host's]. A short one has its turn sooner
    #[arg(long, value_name = "TIME", help_heading = "Scheduling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_slice: Option<Slice>,
    /// What the scheduler believes the vCPUs to need of a CPU, least and most, of 1024
    #[arg(long, value_name = "MIN:MAX", help_heading = "Scheduling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_uclamp: Option<Uclamp>,
    /// CPUs that a vCPU may use, as 0=0-3,1=4 [default: all]
    #[arg(long, value_name = "VCPU=CPUS,...", help_heading = "Scheduling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_affinity: Option<Affinity>,
    /// Class of the thread that serves the devices [default: as vmm itself]
    #[arg(long, value_name = "CLASS", help_heading = "Scheduling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub helper_class: Option<Class>,
    /// Class of the vCPUs' threads until the guest has started
    #[arg(long, value_name = "CLASS", help_heading = "Scheduling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_class: Option<Class>,
    /// What the guest prints on its console when it has started
    /// [default: " as init process", as Linux says unless it is quiet]
    #[arg(long, value_name = "TEXT", help_heading = "Scheduling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_until: Option<LaunchText>,
    /// When the launch class ends in any case [default: 60]
    #[arg(long, value_name = "SECONDS", help_heading = "Scheduling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_limit: Option<u32>,
    /// Control group (cgroup v2) to make for the machine and to remove behind it, as
    /// machines/web; the group above must be there
    #[arg(long, value_name = "PATH", help_heading = "Scheduling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// How its threads are divided [default: vm]
    #[arg(long, value_name = "LAYOUT", help_heading = "Scheduling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_layout: Option<Layout>,
    /// The group's share of the CPU against its neighbours, 1 to 10000
    #[arg(long, value_name = "WEIGHT", help_heading = "Scheduling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<CpuWeight>,
    /// The most CPU time of the group: max, or 150% for one and a half CPUs
    #[arg(long, value_name = "LIMIT", help_heading = "Scheduling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_max: Option<CpuMax>,
    /// After SIGTERM, SIGINT or `vmm stop` pressed the guest's power button: when the
    /// machine is ended in any case [default: 10]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u32>,
}

impl RunArgs {
    /// The same with the default of everything that has one and was not given.
    pub fn or_default(mut self) -> Self {
        self.cmdline.get_or_insert_default();
        self.cpus.get_or_insert_default();
        if self
            .memory
            .as_ref()
            .is_none_or(|memory| memory.size.is_none())
        {
            self.mem.get_or_insert_default();
        }
        self.pv.get_or_insert_default();
        self.console.get_or_insert_default();
        self.rng.get_or_insert_default();
        self.seccomp.get_or_insert_default();
        self.stop_timeout.get_or_insert(STOP_TIMEOUT);
        if self.launch_class.is_some() {
            self.launch_until.get_or_insert_default();
            self.launch_limit.get_or_insert(LAUNCH_LIMIT);
        }
        if self.cgroup.is_some() {
            self.cgroup_layout.get_or_insert_default();
        }
        self
    }

    /// What of it may change while the machine runs.
    pub fn change(&self) -> Change {
        Change {
            vcpu_class: self.vcpu_class,
            vcpu_class_strict: self.vcpu_class_strict,
            vcpu_affinity: self.vcpu_affinity.clone(),
            helper_class: self.helper_class,
            vcpu_slice: self.vcpu_slice,
            vcpu_uclamp: self.vcpu_uclamp,
            cpu_weight: self.cpu_weight,
            cpu_max: self.cpu_max,
        }
    }
}
