//! `vmfirst top`.

use std::cmp::Ordering;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, poll, read};
use ratatui::layout::Constraint;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table};
use ratatui::{Frame, layout::Layout};

use super::cut;
use super::stat::{Watch, YIELDS, headline, mark, per_second, ready, sum, yields};
use crate::model::{HostRates, Vm, VmRates, shown};
use crate::read::Root;
use crate::{Error, Result};

/// What `vmfirst top --help` ends with.
pub const HELP: &str = "\
Keys: r ready time, c run time, n name, h halts, y yields: sorts by that, again turns it
round; arrows and PageUp, PageDown move; q ends. READY% is marked from 5 % (!) and 10 % (!!) on.
vmfirst stat --help says what the columns mean.";

/// By what VMs are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    Ready,
    Run,
    Name,
    Halts,
    Yields,
}

/// The options.
#[derive(Debug, Args)]
pub struct Options {
    /// VMs by name or process id [default: all]
    #[arg(value_name = "VM")]
    names: Vec<String>,
    /// By what to sort
    #[arg(long, value_name = "COLUMN", default_value = "ready")]
    sort: Sort,
    /// How often to look, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "1")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    interval: u32,
}

struct Screen {
    host: HostRates,
    rates: Vec<VmRates>,
    sort: Sort,
    reverse: bool,
    first: usize,
}

impl Options {
    /// Shows the screen until "q".
    pub fn run(self, root: &Root) -> Result<()> {
        if !std::io::stdout().is_terminal() {
            return Err(Error::Usage(
                "top needs a terminal: vmfirst stat --watch prints the same to a file".into(),
            ));
        }
        let interval = Duration::from_secs(self.interval.into());
        let mut watch = Watch::new(root.clone(), self.names, interval)?;
        let mut screen = Screen {
            host: HostRates::default(),
            rates: vec![VmRates::default(); watch.vms.len()],
            sort: self.sort,
            reverse: false,
            first: 0,
        };
        let failed = |source| Error::refused("draw on", "the terminal", source, "");
        let mut terminal = ratatui::try_init().map_err(failed)?;
        let shown = loop {
            if let Err(error) = terminal.draw(|frame| screen.draw(frame, &watch)) {
                break Err(failed(error));
            }
            let until = Instant::now() + interval;
            match screen.keys(until) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(failed(error)),
            }
            if Instant::now() >= until {
                (screen.host, screen.rates) = watch.step();
                watch.refresh();
                screen.rates.resize(watch.vms.len(), VmRates::default());
            }
        };
        ratatui::restore();
        shown
    }
}

impl Screen {
    /// Waits for a key that changes the screen, or the time; false ends.
    fn keys(&mut self, until: Instant) -> std::io::Result<bool> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !poll(left)? {
                return Ok(true);
            }
            match read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    let control = key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(false),
                        KeyCode::Char('c') if control => return Ok(false),
                        code => self.key(code),
                    }
                }
                _ => {}
            }
        }
    }

    fn key(&mut self, code: KeyCode) {
        let sort = match code {
            KeyCode::Char('r') => Sort::Ready,
            KeyCode::Char('c') => Sort::Run,
            KeyCode::Char('n') => Sort::Name,
            KeyCode::Char('h') => Sort::Halts,
            KeyCode::Char('y') => Sort::Yields,
            KeyCode::Down => return self.first += 1,
            KeyCode::Up => return self.first = self.first.saturating_sub(1),
            KeyCode::PageDown => return self.first += 20,
            KeyCode::PageUp => return self.first = self.first.saturating_sub(20),
            _ => return,
        };
        self.reverse = self.sort == sort && !self.reverse;
        self.sort = sort;
    }

    fn order(&self, a: (&Vm, &VmRates), b: (&Vm, &VmRates)) -> Ordering {
        let number = |(vm, rates): (&Vm, &VmRates)| match self.sort {
            Sort::Ready => ready(vm, rates).0,
            Sort::Run => run(vm, rates),
            Sort::Halts => sum(&rates.counted.kvm, &["halt_exits"]).unwrap_or(0.0),
            Sort::Yields => sum(&rates.counted.kvm, YIELDS).unwrap_or(0.0),
            Sort::Name => 0.0,
        };
        let order = number(b)
            .total_cmp(&number(a))
            .then_with(|| a.0.name.cmp(&b.0.name));
        if self.reverse { order.reverse() } else { order }
    }

    fn draw(&mut self, frame: &mut Frame, watch: &Watch) {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let [head, body] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(frame.area());
        let line = headline(&self.host, watch.cpus);
        frame.render_widget(Line::from(line.trim_end().to_string()), head);
        let mut all: Vec<_> = watch.vms.iter().zip(&self.rates).collect();
        all.sort_by(|a, b| self.order(*a, *b));
        self.first = self.first.min(all.len().saturating_sub(1));
        let rows = all
            .into_iter()
            .skip(self.first)
            .take(body.height.into())
            .map(|(vm, rates)| row(vm, rates));
        let widths = COLUMNS.map(|(_, width)| Constraint::Length(width));
        let table = Table::new(rows, widths).column_spacing(0);
        let header = COLUMNS.iter().map(|(name, _)| Cell::from(*name));
        frame.render_widget(table.header(Row::new(header).style(bold)), body);
    }
}

/// Names and widths, 80 characters together.
const COLUMNS: [(&str, u16); 9] = [
    ("NAME", 17),
    ("VMM", 10),
    ("VCPUS", 5),
    ("    RUN%", 8),
    ("  READY%", 8),
    ("  WORST%", 8),
    ("   HALTS", 8),
    ("  YIELDS", 8),
    ("  THROT%", 8),
];

fn run(vm: &Vm, rates: &VmRates) -> f64 {
    vm.vcpu_tasks()
        .filter_map(|(_, t)| Some(rates.tasks.get(&t.tid)?.run_percent))
        .sum()
}

fn row<'a>(vm: &Vm, rates: &VmRates) -> Row<'a> {
    let (mean, worst) = ready(vm, rates);
    let yields = yields(&rates.counted.kvm);
    let style = match mark(mean) {
        "!!" => Style::new().red(),
        "!" => Style::new().yellow(),
        _ => Style::new(),
    };
    let cells = [
        cut(&shown(&vm.name), 16),
        cut(vm.vmm.name(), 9),
        format!("{:>5}", vm.vcpus),
        format!("{:>8.1}", run(vm, rates)),
        format!("{mean:>6.1}{:>2}", mark(mean)),
        format!("{worst:>6.1}{:>2}", mark(worst)),
        format!("{:>8}", per_second(&rates.counted.kvm, &["halt_exits"])),
        format!("{yields:>8}"),
        rates
            .counted
            .throttled_percent
            .map_or(format!("{:>8}", "-"), |p| format!("{p:>8.1}")),
    ];
    Row::new(cells).style(style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CountRates, Role, Task, TaskRates, Vmm};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    const HOUR: Duration = Duration::from_secs(3600);

    /// VM number `n` whose only vCPU waited for `ready` per cent.
    fn vm(n: i32, name: &str, ready_percent: f64) -> (Vm, VmRates) {
        let task = Task {
            pid: n,
            tid: n,
            name: "vcpu0".into(),
            role: Role::Vcpu(0),
            start: 1,
        };
        let vm = Vm {
            name: name.into(),
            vmm: Vmm::CloudHypervisor,
            pid: n,
            start: 1,
            cgroup: None,
            pod: None,
            vcpus: 255,
            tasks: vec![task],
            kvm: None,
        };
        let rates = TaskRates {
            run_percent: 25500.0,
            ready_percent,
            ..TaskRates::default()
        };
        let kvm = ["halt_exits", "directed_yield_attempted"].map(|name| (name, 999_999.0));
        let rates = VmRates {
            seconds: 1.0,
            tasks: [(n, rates)].into(),
            counted: std::sync::Arc::new(CountRates {
                kvm: kvm.into_iter().collect(),
                throttled_percent: Some(100.0),
                ..CountRates::default()
            }),
        };
        (vm, rates)
    }

    fn lines(screen: &mut Screen, watch: &Watch) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(80, 6)).unwrap();
        terminal.draw(|frame| screen.draw(frame, watch)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..80).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..6).map(|y| line(y).trim_end().to_string()).collect()
    }

    #[test]
    fn the_widest_values_stand_apart_in_80_columns() {
        let empty = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(Root::at(empty.path()), Vec::new(), HOUR).unwrap();
        let all = [
            vm(1, "idle", 0.0),
            vm(2, "a-name-of-more-than-eighteen\u{1b}", 100.0),
        ];
        let (vms, rates) = all.into_iter().unzip();
        watch.vms = vms;
        let mut screen = Screen {
            host: HostRates::default(),
            rates,
            sort: Sort::Ready,
            reverse: false,
            first: 0,
        };
        let shown = lines(&mut screen, &watch);
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_string)
                .collect::<Vec<_>>()
        };
        let names = [
            "NAME", "VMM", "VCPUS", "RUN%", "READY%", "WORST%", "HALTS", "YIELDS", "THROT%",
        ];
        assert_eq!(words(&shown[1]), names);
        let row = [
            "a-name-of-more-~",
            "cloud-hy~",
            "255",
            "25500.0",
            "100.0!!",
            "100.0!!",
            "999999",
            "999999",
            "100.0",
        ];
        assert_eq!(words(&shown[2]), row, "{shown:?}");
        assert!(shown[3].starts_with("idle "), "{shown:?}");
        screen.key(KeyCode::Char('r'));
        assert!(lines(&mut screen, &watch)[2].starts_with("idle "));
        screen.key(KeyCode::Char('n'));
        assert!(lines(&mut screen, &watch)[2].starts_with("a-name"));
        screen.key(KeyCode::Down);
        assert!(lines(&mut screen, &watch)[2].starts_with("idle "));
    }
}
