//! What ran where for a short while, from the kernel's tracepoints, to be drawn.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dense_record::measured::{Span, Timeline, Yield};
use dense_record::{Error, Result};

use crate::changes::Changes;
use crate::threads::threads_of;

/// A trace buffer of our own, so that nobody else's tracing is touched.
const INSTANCE: &str = "/sys/kernel/tracing/instances/dense-bench";
/// What must be there to draw anything.
const SWITCH: &str = "sched/sched_switch";
/// What only our kernels have.
const YIELD: &str = "kvm/kvm_directed_yield";

/// Tracing under way.
pub struct Trace(PathBuf);

impl Trace {
    /// Gets ready, which takes a while, if anything is to be drawn.
    pub fn prepare(timeline_ms: u64, changes: &mut Changes) -> Result<Option<Self>> {
        if timeline_ms == 0 {
            return Ok(None);
        }
        let instance = PathBuf::from(INSTANCE);
        changes.make_folder(&instance)?;
        let trace = Self(instance);
        trace.write("tracing_on", "0")?;
        for event in [SWITCH, YIELD] {
            let enable = format!("events/{event}/enable");
            if event == SWITCH || trace.0.join(&enable).exists() {
                trace.write(&enable, "1")?;
            }
        }
        Ok(Some(trace))
    }

    /// Begins to trace, at once.
    pub fn begin(&self) -> Result<()> {
        self.write("tracing_on", "1")
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, text).map_err(Error::io("write to", &path))
    }

    /// Ends it, and tells what these VMs did.
    pub fn end(self, pids: &[u32]) -> Result<Timeline> {
        self.write("tracing_on", "0")?;
        let trace = self.0.join("trace");
        let text = fs::read(&trace).map_err(Error::io("read", &trace))?;
        let mut names = BTreeMap::new();
        for (vm, pid) in pids.iter().enumerate() {
            for thread in threads_of(*pid)? {
                if let Some(vcpu) = thread.vcpu {
                    names.insert(thread.tid, format!("{vm}.{vcpu}"));
                }
            }
        }
        Ok(parse(&String::from_utf8_lossy(&text), &names))
    }
}

/// A line of the trace: `  comm-tid [cpu] flags seconds: event: text`.
pub(crate) struct Line<'a> {
    pub tid: u32,
    pub cpu: u32,
    pub at_us: u64,
    pub event: &'a str,
    pub text: &'a str,
}

pub(crate) fn line(line: &str) -> Option<Line<'_>> {
    let (task, rest) = line.split_once(" [")?;
    let (cpu, rest) = rest.split_once("] ")?;
    let mut words = rest.split_whitespace();
    let time = words.find(|w| w.ends_with(':') && w.contains('.'))?;
    let (_, rest) = rest.split_once(time)?;
    let (event, text) = rest.trim_start().split_once(": ")?;
    let (seconds, micros) = time.trim_end_matches(':').split_once('.')?;
    Some(Line {
        tid: task.trim().rsplit_once('-')?.1.parse().ok()?,
        cpu: cpu.parse().ok()?,
        at_us: seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?,
        event,
        text,
    })
}

/// The value of `name=value`.
pub(crate) fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(name)?;
    rest.strip_prefix('=')?.split_whitespace().next()
}

/// The word after `name`.
pub(crate) fn word<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut words = text.split_whitespace();
    words.find(|w| *w == name)?;
    words.next()
}

fn parse(text: &str, names: &BTreeMap<u32, String>) -> Timeline {
    let mut timeline = Timeline::default();
    // What each CPU runs, and since when.
    let mut running: BTreeMap<u32, (String, u64)> = BTreeMap::new();
    let mut begin = None;
    let mut end = 0;
    for line in text.lines().filter_map(line) {
        let at_us = line.at_us.saturating_sub(*begin.get_or_insert(line.at_us));
        end = at_us.max(end);
        match line.event {
            "sched_switch" => {
                if let Some((who, from_us)) = running.remove(&line.cpu) {
                    timeline.spans.push(span(line.cpu, who, from_us, at_us));
                }
                if let Some(who) = next(line.text, names) {
                    running.insert(line.cpu, (who, at_us));
                }
            }
            "kvm_directed_yield" => timeline.yields.extend(directed_yield(&line, at_us, names)),
            _ => {}
        }
    }
    for (cpu, (who, from_us)) in running {
        timeline.spans.push(span(cpu, who, from_us, end));
    }
    timeline.spans.sort_by_key(|s| (s.cpu, s.from_us));
    timeline
}

fn span(cpu: u32, who: String, from_us: u64, to_us: u64) -> Span {
    Span {
        cpu,
        from_us,
        to_us,
        who,
    }
}

/// Who runs next, unless it is the idle task.
fn next(text: &str, names: &BTreeMap<u32, String>) -> Option<String> {
    let tid = value(text, "next_pid")?.parse().ok()?;
    match names.get(&tid) {
        _ if tid == 0 => None,
        Some(name) => Some(name.clone()),
        None => Some(value(text, "next_comm").unwrap_or("?").to_string()),
    }
}

fn directed_yield(line: &Line, at_us: u64, names: &BTreeMap<u32, String>) -> Option<Yield> {
    let from = names.get(&line.tid)?;
    let (vm, _) = from.split_once('.')?;
    Some(Yield {
        cpu: line.cpu,
        at_us,
        from: from.clone(),
        to: format!("{vm}.{}", word(line.text, "target")?),
        reason: word(line.text, "reason")?.into(),
        hit: word(line.text, "result")?.parse::<i32>().ok()? > 0,
    })
}

/// Whether this host can trace.
pub fn available() -> bool {
    Path::new(INSTANCE).parent().is_some_and(Path::is_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
# tracer: nop
           <...>-10      [000] d..2.   100.000010: sched_switch: prev_comm=swapper/0 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=vcpu0 next_pid=10 next_prio=120
          my vmm-20      [001] d..2.   100.000020: sched_switch: prev_comm=swapper/1 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=vcpu1 next_pid=20 next_prio=120
           vcpu0-10      [000] .....   100.000030: kvm_directed_yield: vcpu 0 target 1 reason ipi same_cpu 0 result 1
           vcpu0-10      [000] d..2.   100.000040: sched_switch: prev_comm=vcpu0 prev_pid=10 prev_prio=120 prev_state=S ==> next_comm=third-party next_pid=99 next_prio=120
           vcpu1-20      [001] d..2.   100.000060: sched_switch: prev_comm=vcpu1 prev_pid=20 prev_prio=120 prev_state=S ==> next_comm=swapper/1 next_pid=0 next_prio=120
CPU:0 [LOST 12 EVENTS]
";

    #[test]
    fn a_trace_becomes_spans_and_yields() {
        let names = BTreeMap::from([(10, "0.0".to_string()), (20, "0.1".to_string())]);
        let timeline = parse(TRACE, &names);
        let spans: Vec<_> = timeline
            .spans
            .iter()
            .map(|s| (s.cpu, s.from_us, s.to_us, s.who.as_str()))
            .collect();
        let expected = [
            (0, 0, 30, "0.0"),
            (0, 30, 50, "third-party"),
            (1, 10, 50, "0.1"),
        ];
        assert_eq!(spans, expected);
        let expected = Yield {
            cpu: 0,
            at_us: 20,
            from: "0.0".into(),
            to: "0.1".into(),
            reason: "ipi".into(),
            hit: true,
        };
        assert_eq!(timeline.yields, [expected]);
    }

    #[test]
    fn nonsense_makes_nothing() {
        for text in ["", "x", " [", "a-1 [0] 1.2: ", "a-1 [0] x 1.2: e: t"] {
            assert_eq!(parse(text, &BTreeMap::new()).spans, []);
        }
    }
}
