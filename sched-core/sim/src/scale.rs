//! What an event costs as the host grows: the same load a CPU from 16 to 1,024 CPUs; and
//! what a virtual minute of large hosts costs.

use std::path::Path;

use dense_report::md::Table;
use plotters::prelude::*;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::scenario::Scenario;
use crate::{Error, Result};

/// CPUs of the hosts.
pub const CPUS: [u64; 7] = [16, 32, 64, 128, 256, 512, 1024];

/// Scenarios of a minute, on 256 CPUs.
const MINUTES: [&str; 2] = [
    include_str!("../scenarios/few-large.toml"),
    include_str!("../scenarios/many-small.toml"),
];

/// All that is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// By CPUs.
    pub points: Vec<Point>,
    /// By scenario and variant.
    pub minutes: Vec<Minute>,
}

/// A scenario's window, on one core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Minute {
    /// The scenario's name.
    pub scenario: String,
    /// The variant.
    pub variant: String,
    /// VMs, vCPUs of each, CPUs.
    pub shape: [u64; 3],
    /// Events simulated.
    pub events: u64,
    /// CPU time that took, s.
    pub cpu_s: f64,
    /// Virtual time, s.
    pub virtual_s: f64,
    /// The most memory that this process had until then, MiB.
    pub memory_mib: f64,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Its CPUs.
    pub cpus: u64,
    /// Events simulated.
    pub events: u64,
    /// CPU time that took, s: other programs on this machine don't count.
    pub cpu_s: f64,
    /// Virtual time, s.
    pub virtual_s: f64,
}

impl Point {
    /// ns of CPU time an event.
    pub fn cost_ns(&self) -> f64 {
        self.cpu_s * 1e9 / self.events as f64
    }
}

/// VMs of 16 vCPUs, two vCPUs a CPU, with locks and shootdowns. About `events` events a
/// host.
pub fn measure(cpus: u64, variant: &str, events: u64) -> Result<Point> {
    let text = format!(
        "name = \"scale\"\nwindow_ms = 1\nvariants = [\"{variant}\"]\n[host]\ncpus = {cpus}\n\
         [[vm]]\ncount = {}\nvcpus = 16\nworkload = \"scale\"\nsteps = [\
         {{ do = \"compute\", ns = 500_000 }}, {{ do = \"spinlock\", ns = 5_000, locks = 4 }},\
         {{ do = \"call\", ns = 2_000 }}]\n",
        cpus / 8
    );
    let scenario = Scenario::parse(&text, "scale")?;
    let compared = scenario.compared();
    let Some((_, policy)) = compared.first() else {
        return Err(Error::Invalid(format!("no variant \"{variant}\"")));
    };
    let mut host = Host::new(&scenario, policy, 1);
    host.run(20_000_000);
    host.begin_window();
    let begin = cpu_s();
    let mut ms = 0;
    while host.stats().events < events {
        host.run(1_000_000);
        ms += 1;
    }
    Ok(Point {
        cpus,
        events: host.stats().events,
        cpu_s: cpu_s() - begin,
        virtual_s: f64::from(ms) / 1e3,
    })
}

/// A minute of each scenario under each of its variants. `done` is told after each.
pub fn minutes(done: impl Fn()) -> Result<Vec<Minute>> {
    let mut all = Vec::new();
    for text in MINUTES {
        let scenario = Scenario::parse(text, "scenario")?;
        for (variant, policy) in scenario.compared() {
            let ms = scenario.window_ms.get();
            let begin = cpu_s();
            let mut host = Host::new(&scenario, &policy, 1);
            host.run(ms * 1_000_000);
            let vms = scenario.vm.iter().map(|vm| vm.count.as_ref().get()).sum();
            let vcpus = scenario.vm.first().map_or(0, |vm| vm.vcpus.as_ref().get());
            all.push(Minute {
                scenario: scenario.name.as_ref().clone(),
                variant: variant.name.as_ref().clone(),
                shape: [vms, vcpus, scenario.host.cpus.get()],
                events: host.stats().events,
                cpu_s: cpu_s() - begin,
                virtual_s: ms as f64 / 1e3,
                memory_mib: memory_mib(),
            });
            done();
        }
    }
    Ok(all)
}

/// How many [`minutes`] measures, at most.
pub const COUNT: usize = 2 * MINUTES.len();

/// This process's peak, from /proc.
fn memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// CPU time of this thread.
fn cpu_s() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Draws ns an event over CPUs as SVG.
pub fn plot(points: &[Point], path: &Path) -> Result<()> {
    let failed =
        |e: &dyn std::fmt::Display| Error::Invalid(format!("can't draw {}: {e}", path.display()));
    let most = points.iter().map(Point::cost_ns).fold(100.0, f64::max);
    let root = SVGBackend::new(path, (640, 360)).into_drawing_area();
    root.fill(&WHITE).map_err(|e| failed(&e))?;
    let mut chart = ChartBuilder::on(&root)
        .caption("ns of CPU time an event", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d((10f64..1_500f64).log_scale(), 0f64..most * 1.2)
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .x_desc("CPUs of the host")
        .draw()
        .map_err(|e| failed(&e))?;
    let line = points.iter().map(|p| (p.cpus as f64, p.cost_ns()));
    let series = LineSeries::new(line, &BLUE).point_size(3);
    chart.draw_series(series).map_err(|e| failed(&e))?;
    root.present().map_err(|e| failed(&e))
}

/// The minutes as a table.
pub fn minutes_table(minutes: &[Minute]) -> String {
    let mut table = Table::new([
        "scenario",
        "variant",
        "virtual s",
        "events",
        "CPU s",
        "peak memory, MiB",
    ]);
    for m in minutes {
        let [vms, vcpus, cpus] = m.shape;
        table.row([
            format!("{}: {vms} VMs x {vcpus} vCPUs on {cpus}", m.scenario),
            m.variant.clone(),
            format!("{:.0}", m.virtual_s),
            m.events.to_string(),
            format!("{:.1}", m.cpu_s),
            format!("{:.0}", m.memory_mib),
        ]);
    }
    table.to_string()
}

/// The points as a table.
pub fn table(points: &[Point]) -> String {
    let mut table = Table::new(["CPUs", "events", "ns an event", "virtual s", "CPU s"]);
    for p in points {
        table.row([
            p.cpus.to_string(),
            p.events.to_string(),
            format!("{:.0}", p.cost_ns()),
            format!("{:.2}", p.virtual_s),
            format!("{:.2}", p.cpu_s),
        ]);
    }
    table.to_string()
}
