//! Puts the BPF program into the kernel.

use std::mem::MaybeUninit;
use std::time::Duration;

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Struct;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{Link, OpenObject, PrintLevel, ProgramMut};

use crate::Error;
use crate::machine::{Caches, HOOKS, Hook};

#[allow(missing_docs, clippy::all, clippy::undocumented_unsafe_blocks)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/vmfirst.skel.rs"));
}

use skel::{OpenVmfirstSkel, VmfirstSkel, VmfirstSkelBuilder};

/// The scheduler wants to be started anew: CPUs came or went (SCX_ECODE_ACT_RESTART).
const RESTART: i64 = 1 << 48;

/// What the policy is to do.
#[derive(Debug, Clone)]
pub struct Policy {
    /// vCPUs before ordinary tasks, and equal shares for VMs; else all by weight.
    pub vm_first: bool,
    /// A yielder's turn goes to whom it waits for.
    pub lend: bool,
    /// That is an IPI's receiver, if one is known.
    pub receivers: bool,
    /// Else the vCPU that others most likely wait for.
    pub ranks: bool,
    /// A turn's length.
    pub slice: Duration,
    /// How far ahead of others a borrower may be.
    pub debt: Duration,
    /// What ordinary tasks have at least of a CPU beside vCPUs, in per mille.
    pub fair_floor: u16,
    /// What offline tasks have at least, in per mille.
    pub offline_floor: u16,
}

/// Why the kernel ended the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// In the kernel's words.
    pub why: String,
    /// Whether it is to be started anew.
    pub restart: bool,
}

/// The scheduler, as long as this lives.
pub struct Running<'o> {
    skel: VmfirstSkel<'o>,
    /// The kernel goes back to fair when they are dropped.
    _links: Vec<Link>,
    /// What does not work on this kernel.
    pub lost: Vec<&'static str>,
}

impl Running<'_> {
    /// Whether, and why, the kernel has ended it.
    pub fn ended(&self) -> Option<Ended> {
        let ended = &self.skel.maps.bss_data.as_deref()?.ended;
        if ended.kind == 0 {
            return None;
        }
        let (reason, message) = (text(&ended.reason), text(&ended.message));
        Some(Ended {
            why: match message.is_empty() {
                true => reason,
                false => format!("{reason} ({message})"),
            },
            restart: ended.code & RESTART != 0,
        })
    }
}

/// A text that ends with a zero byte, on one line.
fn text(bytes: &[i8]) -> String {
    let bytes: Vec<u8> = bytes
        .iter()
        .take_while(|byte| **byte != 0)
        .map(|byte| byte.cast_unsigned())
        .collect();
    String::from_utf8_lossy(&bytes).trim().replace('\n', " ")
}

/// Loads and attaches it, without the hooks that are missing.
///
/// A kernel may have a hook and still refuse it, as its types may differ: then it is tried
/// without all that look at IPIs and yields.
pub fn start<'o>(
    objects: &'o mut [MaybeUninit<OpenObject>; 2],
    policy: &Policy,
    caches: &Caches,
    missing: &[Hook],
    debug: bool,
) -> Result<Running<'o>, Error> {
    let level = if debug {
        PrintLevel::Debug
    } else {
        PrintLevel::Warn
    };
    libbpf_rs::set_print(Some((level, if debug { show } else { hide })));
    let [first, second] = objects;
    let refused = match attempt(first, policy, caches, missing) {
        Ok(running) => return Ok(running),
        Err(refused) => refused,
    };
    let least: Vec<Hook> = HOOKS.into_iter().skip(1).collect();
    if missing.len() >= least.len() {
        return Err(refused);
    }
    // The first answer says more than that of a second try that fails as well.
    attempt(second, policy, caches, &least).map_err(|_| refused)
}

fn show(_: PrintLevel, text: String) {
    eprint!("{text}");
}

fn hide(_: PrintLevel, _: String) {}

fn attempt<'o>(
    object: &'o mut MaybeUninit<OpenObject>,
    policy: &Policy,
    caches: &Caches,
    missing: &[Hook],
) -> Result<Running<'o>, Error> {
    let refused = |what| {
        move |source| Error::Bpf {
            what,
            source,
            hint: "it takes root and a kernel with BTF; --debug shows what the kernel says",
        }
    };
    let mut open = VmfirstSkelBuilder::default()
        .open(object)
        .map_err(refused("open the scheduler"))?;
    set(&mut open, policy, caches);
    let mut lost: Vec<&str> = missing.iter().map(|hook| hook.lost).collect();
    lost.extend(leave_out_operations(&mut open));
    for mut program in open.open_object_mut().progs_mut() {
        if missing.iter().any(|hook| program.name() == hook.program) {
            program.set_autoload(false);
        }
    }
    let mut skel = open.load().map_err(refused("load the scheduler"))?;
    let mut links = attach_hooks(&mut skel, missing).map_err(refused("hook KVM"))?;
    let ops = skel.maps.vmfirst_ops.attach_struct_ops();
    links.push(ops.map_err(refused("start the scheduler"))?);
    Ok(Running {
        skel,
        _links: links,
        lost,
    })
}

/// Leaves out what this kernel's sched_ext does not have, and says what is lost.
fn leave_out_operations(open: &mut OpenVmfirstSkel) -> Vec<&'static str> {
    let known = operations();
    let ops = open.struct_ops.vmfirst_ops_mut();
    let has = |name: &str| known.is_empty() || known.iter().any(|known| known == name);
    let mut lost = Vec::new();
    if !has("cgroup_init") {
        ops.cgroup_init = std::ptr::null_mut();
        ops.cgroup_set_weight = std::ptr::null_mut();
        lost.push("cpu.weight of control groups does not count (CONFIG_EXT_GROUP_SCHED)");
    }
    if !has("cgroup_set_idle") {
        ops.cgroup_set_idle = std::ptr::null_mut();
        lost.push("cpu.idle of control groups does not count");
    }
    lost
}

/// The operations that this kernel's sched_ext has; empty when it does not tell.
fn operations() -> Vec<String> {
    let Ok(btf) = Btf::from_vmlinux() else {
        return Vec::new();
    };
    let Some(ops) = btf.type_by_name::<Struct<'_>>("sched_ext_ops") else {
        return Vec::new();
    };
    let names = ops.iter().filter_map(|member| member.name);
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

fn attach_hooks(skel: &mut VmfirstSkel, missing: &[Hook]) -> libbpf_rs::Result<Vec<Link>> {
    let progs = &mut skel.progs;
    let hooks: [&mut ProgramMut; 5] = [
        &mut progs.on_vcpu_load,
        &mut progs.on_ipi,
        &mut progs.on_accept,
        &mut progs.on_spin,
        &mut progs.after_spin,
    ];
    hooks
        .into_iter()
        .filter(|program| missing.iter().all(|hook| program.name() != hook.program))
        .map(|program| program.attach())
        .collect()
}

/// The numbers of the BPF program that are fixed when it is loaded.
fn set(open: &mut OpenVmfirstSkel, policy: &Policy, caches: &Caches) {
    let Some(fixed) = open.maps.rodata_data.as_deref_mut() else {
        return;
    };
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    fixed.vm_first = policy.vm_first;
    fixed.lend = policy.lend;
    fixed.receivers = policy.receivers;
    fixed.ranks = policy.ranks;
    fixed.slice_ns = ns(policy.slice);
    fixed.debt_ns = ns(policy.debt);
    fixed.fair_floor_mille = policy.fair_floor.into();
    fixed.offline_floor_mille = policy.offline_floor.into();
    // Caches::llc has MAX_CPUS entries at most, each below the number of caches.
    fixed.nr_cpus = caches.llc.len() as u32;
    fixed.nr_llcs = caches.cpus.len() as u32;
    for (to, from) in fixed.cpu_llc.iter_mut().zip(&caches.llc) {
        *to = *from;
    }
    for (to, from) in fixed.llc_cpus.iter_mut().zip(&caches.cpus) {
        *to = *from;
    }
}
