//! Statistics in Prometheus's text format, version 0.0.4.

use crate::devices::counters::DeviceStat;
use std::fmt::Write;

use super::types::{Stat, ThreadStat, VcpuStat};

/// The value of a vCPU, and labels beside machine and vCPU; none or several.
type Values<'a> = Vec<(String, f64)>;

/// A series: its name, what it tells, its kind, and its values of a vCPU.
struct Series {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    values: fn(&VcpuStat) -> Values<'_>,
}

const SERIES: &[Series] = &[
    counter(
        "run_seconds_total",
        "Time that the vCPU's thread ran",
        |v| seconds(Some(v.thread.run_ns)),
    ),
    counter(
        "run_delay_seconds_total",
        "Time that the vCPU's thread waited for a CPU",
        |v| seconds(Some(v.thread.delay_ns)),
    ),
    counter(
        "steal_seconds_total",
        "Time that the guest knows was taken from the vCPU",
        |v| seconds(v.steal_ns),
    ),
    counter("exits_total", "How often the vCPU left the guest", |v| {
        number(v.exits)
    }),
    counter("halts_total", "How often the vCPU halted", |v| {
        number(v.halts)
    }),
    counter(
        "spin_exits_total",
        "How often the vCPU left the guest for spinning",
        |v| number(v.spin_exits),
    ),
    counter(
        "yield_attempts_total",
        "How often the vCPU's spinning made KVM try to run another",
        |v| number(v.yields.as_ref().and_then(|y| y.attempts)),
    ),
    counter(
        "yield_hits_total",
        "How often that made the other one run, by the reason why it was chosen",
        |v| {
            let hits = v.yields.iter().flat_map(|y| &y.hits);
            hits.map(|(reason, &n)| (label("reason", reason), n as f64))
                .collect()
        },
    ),
    counter(
        "yield_targets_total",
        "Where the other one waited: on the CPU of the vCPU or on another",
        |v| {
            let yields = v.yields.as_ref();
            let place = |name, n: Option<u64>| n.map(|n| (label("cpu", name), n as f64));
            let same = place("same", yields.and_then(|y| y.same_cpu));
            let other = place("other", yields.and_then(|y| y.other_cpu));
            same.into_iter().chain(other).collect()
        },
    ),
    gauge(
        "cpu",
        "The CPU that the vCPU's thread runs on, or ran on last",
        |v| vec![(String::new(), v.thread.cpu.into())],
    ),
    gauge("info", "The vCPU's thread and its scheduling class", |v| {
        let tid = label("tid", &v.thread.tid.to_string());
        vec![(tid + &label("class", &v.thread.class), 1.0)]
    }),
];

const fn counter(
    name: &'static str,
    help: &'static str,
    values: fn(&VcpuStat) -> Values<'_>,
) -> Series {
    Series {
        name,
        help,
        kind: "counter",
        values,
    }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    values: fn(&VcpuStat) -> Values<'_>,
) -> Series {
    Series {
        kind: "gauge",
        ..counter(name, help, values)
    }
}

fn number(value: Option<u64>) -> Values<'static> {
    value
        .into_iter()
        .map(|n| (String::new(), n as f64))
        .collect()
}

fn seconds(ns: Option<u64>) -> Values<'static> {
    ns.into_iter()
        .map(|n| (String::new(), n as f64 / 1e9))
        .collect()
}

/// A label behind others.
fn label(name: &str, value: &str) -> String {
    format!(",{name}=\"{}\"", escape(value))
}

/// A value as the format has it. Names come from files and reasons from the kernel, but
/// classes and threads' names are a machine's own words.
fn escape(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n")
}

/// The statistics of several machines as one text; of those that are silent only that.
pub fn text(stats: &[Stat], silent: &[String]) -> String {
    let mut text = String::new();
    let up = stats.iter().map(|stat| (&stat.name, 1));
    let up = up.chain(silent.iter().map(|name| (name, 0)));
    let up: Vec<_> = up
        .map(|(vm, up)| format!("{{vm=\"{}\"}} {up}", escape(vm)))
        .collect();
    let help = "Whether the machine answers";
    append(&mut text, "vmm_up", help, "gauge", &up);
    for series in SERIES {
        let vcpus = stats.iter().flat_map(|stat| {
            let vcpus = stat.vcpus.iter().enumerate();
            vcpus.map(move |(id, vcpu)| (stat, id, vcpu))
        });
        let lines: Vec<_> = vcpus
            .flat_map(|(stat, id, vcpu)| {
                let values = (series.values)(vcpu).into_iter();
                values.map(move |(labels, value)| {
                    let vm = escape(&stat.name);
                    format!("{{vm=\"{vm}\",vcpu=\"{id}\"{labels}}} {value}")
                })
            })
            .collect();
        let name = format!("vmm_vcpu_{}", series.name);
        append(&mut text, &name, series.help, series.kind, &lines);
    }
    let helper = |value: fn(&ThreadStat) -> u64| -> Vec<String> {
        let threads = stats
            .iter()
            .flat_map(|stat| stat.helpers.iter().map(move |thread| (stat, thread)));
        threads
            .map(|(stat, thread)| {
                let seconds = value(thread) as f64 / 1e9;
                let labels = label("thread", &thread.name);
                let vm = escape(&stat.name);
                format!("{{vm=\"{vm}\"{labels}}} {seconds}")
            })
            .collect()
    };
    append(
        &mut text,
        "vmm_helper_run_seconds_total",
        "Time that a thread of the machine beside its vCPUs ran",
        "counter",
        &helper(|thread| thread.run_ns),
    );
    append(
        &mut text,
        "vmm_helper_run_delay_seconds_total",
        "Time that it waited for a CPU",
        "counter",
        &helper(|thread| thread.delay_ns),
    );
    for series in DEVICE_SERIES {
        let devices = stats
            .iter()
            .flat_map(|stat| stat.devices.iter().map(move |device| (stat, device)));
        let lines: Vec<_> = devices
            .flat_map(|(stat, device)| {
                let values = (series.values)(device).into_iter();
                values.map(move |(direction, value)| {
                    let labels = label("device", &device.name) + &direction;
                    format!("{{vm=\"{}\"{labels}}} {value}", stat.name)
                })
            })
            .collect();
        let name = format!("vmm_device_{}", series.name);
        append(&mut text, &name, series.help, "counter", &lines);
    }
    text
}

/// A series of devices: its name, what it tells, and its values of a device.
struct DeviceSeries {
    name: &'static str,
    help: &'static str,
    values: fn(&DeviceStat) -> Vec<(String, u64)>,
}

const DEVICE_SERIES: &[DeviceSeries] = &[
    DeviceSeries {
        name: "requests_total",
        help: "Requests of the driver that were answered",
        values: |d| vec![(String::new(), d.requests)],
    },
    DeviceSeries {
        name: "bytes_total",
        help: "Bytes of data that the guest got or gave; of the balloon, of memory",
        values: |d| {
            let direction = |to| label("direction", to);
            vec![
                (direction("to_guest"), d.to_guest_bytes),
                (direction("from_guest"), d.from_guest_bytes),
            ]
        },
    },
    DeviceSeries {
        name: "errors_total",
        help: "Requests that were answered with an error, or broke their queue",
        values: |d| vec![(String::new(), d.errors)],
    },
    DeviceSeries {
        name: "dropped_total",
        help: "Frames, packets or (of the console) bytes that were lost",
        values: |d| vec![(String::new(), d.dropped)],
    },
    DeviceSeries {
        name: "queue_full_total",
        help: "How often a frame for the guest found no buffer of the guest's",
        values: |d| vec![(String::new(), d.queue_full)],
    },
];

/// A series without a value is left out.
fn append(text: &mut String, name: &str, help: &str, kind: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    // Writing to a string doesn't fail.
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    for line in lines {
        let _ = writeln!(text, "{name}{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_can_be_taken_for_another_machines() {
        let silent = ["a\"} 1\nvmm_up{vm=\"victim\"} 1\n".to_string()];
        let text = text(&[], &silent);
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), 1, "{text}");
        assert!(lines[0].ends_with("} 0"), "{text}");
    }
}
