//! Whether a directed yield went to the vCPU that was really waited for, and whether KVM
//! knew all vCPUs that owed a spinning one their answer.
//!
//! The guests called `truth-...` (guests/truth) know who waits for whom and tell it
//! after the window, in their own TSC; the kernel's tracepoint tells of each yield,
//! in the host's, and another one at each spin exit which vCPUs owe an answer. `tsc-offset` of KVM's debugfs leads from one to the other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dense_record::{Error, Result};

use crate::changes::Changes;
use crate::counters::Counters;
use crate::threads::threads_of;
use crate::trace::word;

/// Begins the names of the workloads that tell their waits.
const WORKLOADS: &str = "truth-";
/// A trace buffer of our own, so that nobody else's tracing is touched.
const INSTANCE: &str = "/sys/kernel/tracing/instances/dense-bench-truth";
const YIELD: &str = "kvm_directed_yield";
/// On a kernel that remembers IPIs.
const RECEIVERS: &str = "kvm_dy_receivers";
const SWITCH: &str = "sched_switch";
/// In KiB a CPU: some 40,000 events.
const BUFFER: &str = "4096";
const DEBUGFS: &str = "/sys/kernel/debug/kvm";
/// A guest's clock and the tracepoint's may differ by this many ticks, and a wait's
/// last look at what it waits for comes before its end.
const SLACK: u64 = 3000;

/// A wait of a vCPU for another one, in the guest's TSC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    waiter: u32,
    target: u32,
    begin: u64,
    end: u64,
}

impl Wait {
    /// Reads `TSC at the window's begin,wait,wait,...`, where a wait is four numbers
    /// with spaces: waiter, target, begin from there, length; all in hexadecimal.
    pub fn parse_line(text: &str) -> Option<Vec<Self>> {
        let mut parts = text.split(',');
        let window = u64::from_str_radix(parts.next()?, 16).ok()?;
        parts.map(|wait| Self::parse(wait, window)).collect()
    }

    fn parse(text: &str, window: u64) -> Option<Self> {
        let numbers: Vec<u64> = text
            .split(' ')
            .map(|n| u64::from_str_radix(n, 16).ok())
            .collect::<Option<_>>()?;
        let [waiter, target, begin, length] = numbers[..] else {
            return None;
        };
        let begin = window.checked_add(begin)?;
        Some(Self {
            waiter: waiter.try_into().ok()?,
            target: target.try_into().ok()?,
            begin,
            end: begin.checked_add(length)?,
        })
    }

    /// Surely under way: clocks may differ, and the waiter looks a little later.
    fn is_under_way(&self, time: u64) -> bool {
        self.begin <= time && time.saturating_add(SLACK) < self.end
    }

    fn covers(&self, time: u64) -> bool {
        (self.begin.saturating_sub(SLACK)..=self.end.saturating_add(SLACK)).contains(&time)
    }
}

/// The waits of a VM, to be found by time: there are thousands, and as many spin exits to each.
struct Waits {
    by_begin: Vec<Wait>,
    longest: u64,
}

impl Waits {
    fn new(waits: &[Wait]) -> Self {
        let mut by_begin = waits.to_vec();
        by_begin.sort_by_key(|wait| wait.begin);
        let longest = waits.iter().map(|wait| wait.end - wait.begin).max();
        Self {
            by_begin,
            longest: longest.unwrap_or(0),
        }
    }

    /// All that may cover `time`, and some others.
    fn around(&self, time: u64) -> &[Wait] {
        let first = time.saturating_sub(self.longest.saturating_add(SLACK));
        let last = time.saturating_add(SLACK);
        let from = self.by_begin.partition_point(|wait| wait.begin < first);
        let to = self.by_begin.partition_point(|wait| wait.begin <= last);
        &self.by_begin[from..to]
    }
}

/// Tracing of yields under way.
pub struct Watch {
    instance: PathBuf,
    /// By thread: number of the VM and of its vCPU.
    vcpus: BTreeMap<u32, (usize, u32)>,
    /// What leads from the host's TSC to each VM's.
    offsets: Vec<u64>,
}

/// A spin exit.
#[derive(Debug, PartialEq, Eq)]
struct Exit {
    vm: usize,
    vcpu: u32,
    /// The first 64 vCPUs that owe an answer, as far as KVM knows: a bit each.
    owed: u64,
    /// In the guest's TSC.
    at: u64,
}

impl Exit {
    /// Does KVM know of each vCPU that owes the answer? `None` if it is not in a wait.
    fn known(&self, waits: &[Wait]) -> Option<bool> {
        let owes = |wait: &&Wait| wait.waiter == self.vcpu && wait.is_under_way(self.at);
        let mut targets = waits.iter().filter(owes).map(|wait| wait.target).peekable();
        targets.peek()?;
        Some(targets.all(|target| self.owed.checked_shr(target).unwrap_or(0) & 1 == 1))
    }
}

/// A yield that the scheduler took.
#[derive(Debug, PartialEq, Eq)]
struct Yield {
    vm: usize,
    vcpu: u32,
    target: u32,
    /// In the guest's TSC.
    at: u64,
    reason: String,
}

impl Watch {
    /// Gets ready, which takes a while, if the workload is one that tells its waits.
    pub fn prepare(workload: &str, pids: &[u32], changes: &mut Changes) -> Result<Option<Self>> {
        if !workload.starts_with(WORKLOADS) {
            return Ok(None);
        }
        let instance = PathBuf::from(INSTANCE);
        changes.make_folder(&instance)?;
        let yields = format!("events/kvm/{YIELD}/enable");
        let switches = format!("events/sched/{SWITCH}");
        for (file, value) in [
            ("trace_clock", "x86-tsc"),
            ("tracing_on", "0"),
            ("buffer_size_kb", BUFFER),
            (&yields, "1"),
            (&format!("{switches}/filter"), "prev_comm ~ \"vcpu*\""),
            (&format!("{switches}/enable"), "1"),
        ] {
            let path = instance.join(file);
            fs::write(&path, value).map_err(Error::io("write to", &path))?;
        }
        let receivers = instance.join(format!("events/kvm/{RECEIVERS}/enable"));
        if receivers.exists() {
            fs::write(&receivers, "1").map_err(Error::io("write to", &receivers))?;
        }
        let mut vcpus = BTreeMap::new();
        for (vm, &pid) in pids.iter().enumerate() {
            for thread in threads_of(pid)? {
                if let Some(vcpu) = thread.vcpu {
                    vcpus.insert(thread.tid, (vm, vcpu));
                }
            }
        }
        let offsets = pids
            .iter()
            .map(|&pid| tsc_offset(Path::new(DEBUGFS), pid))
            .collect::<Result<_>>()?;
        Ok(Some(Self {
            instance,
            vcpus,
            offsets,
        }))
    }

    /// Begins to trace, or stops: at the window's ends.
    pub fn switch(&self, on: bool) -> Result<()> {
        let path = self.instance.join("tracing_on");
        fs::write(&path, if on { "1" } else { "0" }).map_err(Error::io("write to", &path))
    }

    /// Counts the yields that went to a vCPU that was waited for, and those that
    /// went elsewhere, by what spoke for the target; `unknown` are those of a vCPU
    /// that told of no wait at that time. Of the spin exits in a wait, `exits_known` are those
    /// at which KVM knew of each vCPU that owed the answer that it does.
    pub fn judge(&self, waits: &[Vec<Wait>]) -> Result<Counters> {
        let trace = self.instance.join("trace");
        let text = fs::read(&trace).map_err(Error::io("read", &trace))?;
        let text = String::from_utf8_lossy(&text);
        let mut counters = Counters::new();
        let names = ["right", "wrong", "unknown", "exits_known", "exits_unknown"];
        for name in names {
            counters.insert(format!("truth_{name}"), 0);
        }
        let waits: Vec<Waits> = waits.iter().map(|of_vm| Waits::new(of_vm)).collect();
        let around = |vm: usize, at| waits.get(vm).map_or(&[][..], |waits| waits.around(at));
        for exit in self.exits(&text) {
            if let Some(known) = exit.known(around(exit.vm, exit.at)) {
                let name = match known {
                    true => "truth_exits_known",
                    false => "truth_exits_unknown",
                };
                *counters.entry(name.into()).or_default() += 1;
            }
        }
        for it in self.yields(&text) {
            let verdict = verdict(&it, around(it.vm, it.at));
            for name in [verdict.to_string(), format!("{verdict}_{}", it.reason)] {
                *counters.entry(name).or_default() += 1;
            }
        }
        Ok(counters)
    }

    /// The spin exits at which KVM looked which vCPUs owe an answer.
    fn exits(&self, text: &str) -> Vec<Exit> {
        let looks = text.lines().filter_map(event);
        let looks = looks.filter(|event| event.name == RECEIVERS);
        looks.filter_map(|event| self.exit(&event)).collect()
    }

    fn exit(&self, event: &Event) -> Option<Exit> {
        let &(vm, vcpu) = self.vcpus.get(&event.tid)?;
        Some(Exit {
            vm,
            vcpu,
            owed: u64::from_str_radix(word(event.text, "owed")?, 16).ok()?,
            at: event.at.wrapping_add(*self.offsets.get(vm)?),
        })
    }

    /// The yields that the scheduler took. A yield is traced when the yielder runs
    /// again; it was decided when the yielder was last switched out before.
    fn yields(&self, text: &str) -> Vec<Yield> {
        let mut switched_out = BTreeMap::new();
        let mut yields = Vec::new();
        for event in text.lines().filter_map(event) {
            if event.name == SWITCH {
                switched_out.insert(event.tid, event.at);
            } else if let Some(it) = self.taken(&event, switched_out.remove(&event.tid)) {
                yields.push(it);
            }
        }
        yields
    }

    fn taken(&self, event: &Event, switched_out: Option<u64>) -> Option<Yield> {
        let &(vm, vcpu) = self.vcpus.get(&event.tid)?;
        let result: i64 = word(event.text, "result")?.parse().ok()?;
        let yielded = Yield {
            vm,
            vcpu,
            target: word(event.text, "target")?.parse().ok()?,
            at: switched_out?.wrapping_add(*self.offsets.get(vm)?),
            reason: word(event.text, "reason")?.to_string(),
        };
        (result > 0).then_some(yielded)
    }
}

/// A line of the trace.
struct Event<'a> {
    tid: u32,
    /// In the host's TSC.
    at: u64,
    name: &'a str,
    text: &'a str,
}

/// Reads `  vcpu1-123 [002] d..2. 4567: kvm_directed_yield: vcpu 1 target 2 ...`.
fn event(line: &str) -> Option<Event<'_>> {
    let (head, rest) = line.split_once(": ")?;
    let (name, text) = rest.split_once(": ")?;
    let (task, fields) = head.split_once(" [")?;
    Some(Event {
        tid: task.trim().rsplit_once('-')?.1.parse().ok()?,
        at: fields.split_whitespace().last()?.parse().ok()?,
        name,
        text,
    })
}

fn verdict(it: &Yield, waits: &[Wait]) -> &'static str {
    let at_that_time = |w: &&Wait| w.waiter == it.vcpu && w.covers(it.at);
    let mut targets = waits
        .iter()
        .filter(at_that_time)
        .map(|w| w.target)
        .peekable();
    if targets.peek().is_none() {
        return "truth_unknown";
    }
    match targets.any(|target| target == it.target) {
        true => "truth_right",
        false => "truth_wrong",
    }
}

/// What KVM adds to the host's TSC for a VM's first vCPU, and so for all.
fn tsc_offset(debugfs: &Path, pid: u32) -> Result<u64> {
    let prefix = format!("{pid}-");
    let folders = fs::read_dir(debugfs).map_err(Error::io("read", debugfs))?;
    let files = folders
        .flatten()
        .filter(|f| f.file_name().to_string_lossy().starts_with(&prefix))
        .map(|f| f.path().join("vcpu0/tsc-offset"));
    for file in files {
        if let Some(offset) = read_signed(&file) {
            return Ok(offset);
        }
    }
    Err(Error::Invalid(format!(
        "{} has no tsc-offset of process {pid}: the truth needs KVM's debugfs",
        debugfs.display()
    )))
}

/// A number that is printed with a sign, as what it adds.
fn read_signed(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let number: i64 = text.trim().parse().ok()?;
    Some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        Watch {
            instance: PathBuf::new(),
            vcpus: [(41, (0, 0)), (42, (0, 1))].into(),
            offsets: vec![(-1000_i64) as u64],
        }
    }

    const OUT: &str = "     vcpu1-42      [002] d..2. 51000: sched_switch: prev_comm=vcpu1";
    const LINE: &str = "    vcpu1-42      [002] ..... 99000: kvm_directed_yield: \
        vcpu 1 target 3 reason kernel same_cpu 0 result 1";

    fn the_yield() -> Yield {
        let mut yields = watch().yields(&format!("# tracer: nop\n{OUT}\n{LINE}\n"));
        assert_eq!(yields.len(), 1);
        yields.remove(0)
    }

    #[test]
    fn a_yield_was_when_the_yielder_was_switched_out_in_the_guests_time() {
        let it = the_yield();
        assert_eq!((it.vm, it.vcpu, it.target, it.at), (0, 1, 3, 50000));
        assert_eq!(it.reason, "kernel");
        for other in [
            LINE.replace("result 1", "result 0"),
            LINE.replace("-42", "-99"),
        ] {
            assert_eq!(watch().yields(&format!("{OUT}\n{other}\n")), []);
        }
        assert_eq!(watch().yields(LINE), []);
    }

    #[test]
    fn a_yield_is_right_if_its_target_was_waited_for_then() {
        let it = the_yield();
        // 0xc350 is 50000.
        let waits = |line| Wait::parse_line(line).unwrap();
        let right = waits("c000,1 2 0 1000,1 3 100 1000");
        assert_eq!(right[1].begin, 0xc100);
        assert_eq!(verdict(&it, &right), "truth_right");
        assert_eq!(verdict(&it, &right[..1]), "truth_wrong");
        assert_eq!(verdict(&it, &waits("0,1 3 0 1000")), "truth_unknown");
        assert_eq!(verdict(&it, &waits("c000,0 3 0 1000")), "truth_unknown");
    }

    #[test]
    fn an_exit_is_known_if_all_that_owe_the_answer_are() {
        let look = |owed| {
            let line = format!(
                "    vcpu1-42      [002] d..1. 51000: kvm_dy_receivers: \
                 vcpu 1 record c00fb001 owed {owed} pending 3 in_handler -1 running 0\n"
            );
            let exits = watch().exits(&line);
            assert_eq!((exits.len(), exits[0].at), (1, 50000));
            let waits = Wait::parse_line("c000,1 2 0 2000,1 3 0 2000,1 4 0 100,2 1 0 2000");
            exits[0].known(&waits.unwrap())
        };
        assert_eq!(look("c"), Some(true));
        assert_eq!(look("1c"), Some(true), "who has answered may be in it");
        assert_eq!(look("8"), Some(false));
        assert_eq!(look("0"), Some(false));
        let later = Exit {
            vm: 0,
            vcpu: 1,
            owed: 0,
            at: 0xe000,
        };
        assert_eq!(
            later.known(&Wait::parse_line("c000,1 2 0 2000").unwrap()),
            None
        );
    }

    #[test]
    fn waits_are_found_by_time() {
        let all = Wait::parse_line("0,1 2 10000 10,1 2 30000 9000,1 3 0 100,1 3 50000 10").unwrap();
        let waits = Waits::new(&all);
        for time in (0..0x60000).step_by(0x100) {
            let found = waits.around(time);
            assert!(found.len() < all.len(), "{time:x}");
            for wait in &all {
                assert!(
                    !wait.covers(time) || found.contains(wait),
                    "{time:x} {wait:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_wait_is_refused() {
        const LAST: &str = "ffffffffffffffff";
        let past_the_end = format!("{LAST},1 2 1 1");
        for text in [
            "",
            "0,1 2 3",
            "0,1 2 3 4 5",
            "0,1 2 3 x",
            "0,100000000 2 3 4",
            &past_the_end,
        ] {
            assert_eq!(Wait::parse_line(text), None, "{text}");
        }
        assert_eq!(Wait::parse_line("0"), Some(Vec::new()));
    }
}
