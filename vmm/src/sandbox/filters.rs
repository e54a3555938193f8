//! The system calls that each kind of thread may make, as tables.

use std::collections::BTreeMap;

// Above all SYS_*, of which most are here.
use libc::*;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::{Role, search};
use crate::config::Seccomp;

/// `_IO(KVMIO, 0x80)`: what a running vCPU's thread asks of KVM.
const KVM_RUN: u64 = 0xae80;
/// `_IO(KVMIO, 0xad)`: when it is paused.
const KVM_KVMCLOCK_CTRL: u64 = 0xaead;

/// What a thread does to give up its rights and to take its own filter.
const CONFINING: [i64; 6] = [
    SYS_setgroups,
    SYS_setresgid,
    SYS_setresuid,
    SYS_prctl,
    SYS_seccomp,
    SYS_landlock_restrict_self,
];

/// A system call, and what one of its arguments must be.
struct Allow(i64, Option<Argument>);

/// Argument `index`, of which the bits in `mask` must be as in `value`.
struct Argument {
    index: u8,
    width: SeccompCmpArgLen,
    mask: u64,
    value: u64,
}

/// Whatever its arguments are.
fn any(call: i64) -> Allow {
    Allow(call, None)
}

/// Only with this argument.
fn only(call: i64, index: u8, value: u64) -> Allow {
    masked(call, index, u64::from(u32::MAX), value)
}

fn masked(call: i64, index: u8, mask: u64, value: u64) -> Allow {
    let argument = Argument {
        index,
        width: Dword,
        mask,
        value,
    };
    Allow(call, Some(argument))
}

/// What the language's and the C library's run time need on every thread: memory that
/// isn't executable, locks, time, open files, the end of a thread.
fn common() -> Vec<Allow> {
    let no_address = Argument {
        index: 4,
        width: Qword,
        mask: u64::MAX,
        value: 0,
    };
    vec![
        any(SYS_read),
        any(SYS_write),
        any(SYS_close),
        // Debug builds look whether a descriptor that they close is open.
        only(SYS_fcntl, 1, F_GETFD as u64),
        any(SYS_brk),
        masked(SYS_mmap, 2, PROT_EXEC as u64, 0),
        masked(SYS_mprotect, 2, PROT_EXEC as u64, 0),
        any(SYS_mremap),
        any(SYS_munmap),
        any(SYS_madvise),
        any(SYS_futex),
        // Whether the console's reader takes more, and whether somebody reads what is logged.
        any(SYS_poll),
        any(SYS_ppoll),
        any(SYS_sched_yield),
        // The allocator asks how many CPUs there are.
        any(SYS_sched_getaffinity),
        // Where the vDSO cannot tell the time.
        any(SYS_clock_gettime),
        any(SYS_gettimeofday),
        // Keys of hash tables; the random source.
        any(SYS_getrandom),
        // A signal's handler says so on a socket: any thread may be the one that runs it.
        Allow(SYS_sendto, Some(no_address)),
        any(SYS_rt_sigreturn),
        any(SYS_rt_sigprocmask),
        any(SYS_sigaltstack),
        any(SYS_restart_syscall),
        // A fault makes the terminal what it was.
        only(SYS_ioctl, 1, TCSETS),
        only(SYS_ioctl, 1, TCSETS2),
        // Panics tell their thread's id; an abort is a signal to oneself.
        any(SYS_gettid),
        any(SYS_getpid),
        only(SYS_tgkill, 0, std::process::id().into()),
        any(SYS_exit),
        any(SYS_exit_group),
    ]
}

/// Waiting for events.
fn events() -> Vec<Allow> {
    vec![
        any(SYS_epoll_wait),
        any(SYS_epoll_pwait),
        any(SYS_epoll_ctl),
    ]
}

/// A vCPU's thread: the guest, and registers of devices.
fn vcpu() -> Vec<Allow> {
    [KVM_RUN, KVM_KVMCLOCK_CTRL]
        .map(|request| only(SYS_ioctl, 1, request))
        .into()
}

/// `vmm-io`: disks, the tap, the console's input.
fn io() -> Vec<Allow> {
    let mut calls = events();
    calls.extend([any(SYS_pread64), any(SYS_pwrite64), any(SYS_fdatasync)]);
    // What the guest discards: a file grows by no other call than a write.
    let ranges = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
    let kept = libc::FALLOC_FL_KEEP_SIZE;
    calls.push(masked(SYS_fallocate, 1, !ranges as u32 as u64, kept as u64));
    // The console: its clients; its file, whose older half goes.
    calls.extend([any(SYS_accept4), any(SYS_ftruncate), any(SYS_lseek)]);
    // What the guest's driver takes of a tap's frames.
    calls.push(only(SYS_ioctl, 1, TUNSETOFFLOAD));
    calls
}

/// The same with vsock: streams of Unix sockets.
fn io_streams() -> Vec<Allow> {
    let mut calls = io();
    calls.push(only(SYS_socket, 0, AF_UNIX as u64));
    // To make an accepted stream one that doesn't wait.
    calls.push(only(SYS_ioctl, 1, FIONBIO));
    calls.extend([SYS_connect, SYS_accept4, SYS_recvfrom, SYS_shutdown].map(any));
    calls
}

/// The main thread: signals, kicks to the vCPUs, and at the end the terminal.
fn main() -> Vec<Allow> {
    let mut calls = events();
    calls.push(any(SYS_clock_nanosleep));
    // The socket that vsock's streams came by.
    calls.push(any(SYS_unlinkat));
    // TCSETS is followed by its two variants that wait.
    let terminal = [TCGETS, TCSETS, TCSETS + 1, TCSETS + 2];
    let terminal2 = [TCGETS2, TCSETS2, TCSETS2 + 1, TCSETS2 + 2];
    calls.extend(
        [terminal, terminal2]
            .concat()
            .into_iter()
            .map(|request| only(SYS_ioctl, 1, request)),
    );
    calls
}

/// Finding, reading and removing files; they are never made.
fn files() -> Vec<Allow> {
    let no_creation = (libc::O_CREAT | libc::O_TMPFILE) & !libc::O_DIRECTORY;
    let mut calls = vec![masked(SYS_openat, 2, no_creation as u64, 0)];
    calls.extend(
        [
            SYS_fstat,
            SYS_newfstatat,
            SYS_statx,
            SYS_lseek,
            SYS_getdents64,
            SYS_unlinkat,
            SYS_rmdir,
        ]
        .map(any),
    );
    calls
}

/// The main thread of a machine with a name, a control group or a launch class: the class of
/// vCPUs when the guest has started, the files of control groups, the socket.
fn steer() -> Vec<Allow> {
    let mut calls = main();
    calls.extend(files());
    calls.extend([SYS_getpriority, SYS_sched_getattr, SYS_sched_setattr].map(any));
    calls
}

/// The process that removes what a machine left: the mark of a control group, and the lock.
fn reap() -> Vec<Allow> {
    let mut calls = files();
    calls.extend([SYS_getxattr, SYS_flock, SYS_geteuid, SYS_clock_nanosleep].map(any));
    calls
}

/// `vmm-api`: clients.
fn api() -> Vec<Allow> {
    let mut calls = events();
    calls.extend([SYS_accept4, SYS_recvfrom, SYS_timerfd_settime, SYS_shutdown].map(any));
    calls
}

/// All that a thread of this role does.
fn calls(role: Role) -> Vec<Allow> {
    let mut calls = common();
    calls.extend(match role {
        Role::Vcpu => vcpu(),
        Role::Io => io(),
        Role::IoStreams => io_streams(),
        Role::Main => main(),
        Role::Steer => steer(),
        Role::Api => api(),
        Role::Reap => reap(),
    });
    calls
}

/// The filter of a `role`; none where everything is allowed.
pub fn program(role: Role, seccomp: Seccomp) -> Result<Option<BpfProgram>, BackendError> {
    compile(calls(role), seccomp)
}

/// What lies below the filters of a machine's threads: the calls of any role, whatever their
/// arguments, and those that confine a thread.
pub fn base(seccomp: Seccomp) -> Option<BpfProgram> {
    let refused = refused(seccomp)?;
    let calls = Role::OF_A_MACHINE
        .into_iter()
        .flat_map(calls)
        .map(|allow| allow.0);
    let calls = calls.chain(CONFINING).map(|call| call as u32).collect();
    Some(search::program(&calls, refused.into()))
}

/// What becomes of any other call; none where everything is allowed.
fn refused(seccomp: Seccomp) -> Option<SeccompAction> {
    match seccomp {
        Seccomp::On => Some(SeccompAction::Trap),
        Seccomp::Log => Some(SeccompAction::Log),
        Seccomp::Off => None,
    }
}

fn compile(
    calls: impl IntoIterator<Item = Allow>,
    seccomp: Seccomp,
) -> Result<Option<BpfProgram>, BackendError> {
    let Some(refused) = refused(seccomp) else {
        return Ok(None);
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for Allow(call, argument) in calls {
        let rules = rules.entry(call).or_default();
        if let Some(argument) = argument {
            rules.push(argument.rule()?);
        }
    }
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, TargetArch::x86_64)?;
    filter.try_into().map(Some)
}

impl Argument {
    fn rule(self) -> Result<SeccompRule, BackendError> {
        let operator = SeccompCmpOp::MaskedEq(self.mask);
        let condition = SeccompCondition::new(self.index, self.width, operator, self.value)?;
        SeccompRule::new(vec![condition])
    }
}
