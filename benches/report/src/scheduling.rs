//! What ran where, as a picture: a row a CPU, a box a task's turn, a line from each
//! vCPU that spun to where the vCPU that it was thrown out for ran next.

use std::collections::BTreeSet;

use maud::{Markup, html};

use crate::picture::px;
use dense_record::measured::{Span, Timeline, Yield};

/// The picture's width, and the room for the CPUs' names.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 52.0;
/// Height of a CPU's row, and of its boxes.
const ROW: f64 = 30.0;
const BOX: f64 = 20.0;
/// Time that fits in one strip, in us, and how many strips are drawn.
const STRIP_US: u64 = 2000;
const STRIPS: u64 = 5;
/// A target that did not run within this time, in us, has no line.
const REACH_US: u64 = 500;
/// A box narrower than this has no name in it.
const NAMED: f64 = 20.0;

/// Strips of the timeline, the first of them only when it is long.
pub fn strips(timeline: &Timeline) -> Markup {
    let end = timeline.spans.iter().map(|s| s.to_us).max().unwrap_or(0);
    let count = end.div_ceil(STRIP_US).clamp(1, STRIPS);
    html! {
        @for number in 0..count {
            (strip(timeline, number * STRIP_US))
        }
        p.legend {
            @for vm in vms(timeline) {
                span class=(format!("key vm{}", vm % 6)) { "VM " (vm) }
                " "
            }
            span.key.other { "another task" }
            " A box holds vm.vcpu. A line goes from a vCPU that was thrown out of a spin \
            loop to where the vCPU that KVM chose ran next; a dot is one that the scheduler \
            refused."
        }
    }
}

fn vms(timeline: &Timeline) -> BTreeSet<u32> {
    timeline.spans.iter().filter_map(|s| vm(&s.who)).collect()
}

fn vm(who: &str) -> Option<u32> {
    let (vm, vcpu) = who.split_once('.')?;
    vcpu.parse::<u32>().ok()?;
    vm.parse().ok()
}

/// Where a strip's times and CPUs are.
struct Strip {
    from_us: u64,
    cpus: Vec<u32>,
}

impl Strip {
    fn x(&self, us: u64) -> f64 {
        let share = us.saturating_sub(self.from_us) as f64 / STRIP_US as f64;
        LEFT + share.min(1.0) * (WIDTH - LEFT)
    }

    fn y(&self, cpu: u32) -> f64 {
        let row = self.cpus.iter().position(|c| *c == cpu).unwrap_or(0);
        ROW * (row as f64 + 0.5)
    }

    fn holds(&self, us: u64) -> bool {
        (self.from_us..self.from_us + STRIP_US).contains(&us)
    }
}

fn strip(timeline: &Timeline, from_us: u64) -> Markup {
    let cpus: BTreeSet<u32> = timeline.spans.iter().map(|s| s.cpu).collect();
    let strip = Strip {
        from_us,
        cpus: cpus.into_iter().collect(),
    };
    let bottom = ROW * strip.cpus.len() as f64;
    let title = format!("What ran on each CPU from {from_us} us on");
    let to_us = from_us + STRIP_US;
    let spans = timeline
        .spans
        .iter()
        .filter(|s| s.to_us > from_us && s.from_us < to_us);
    let yields = timeline.yields.iter().filter(|y| strip.holds(y.at_us));
    html! {
        svg.timeline viewBox=(format!("0 0 {WIDTH} {}", bottom + 18.0)) role="img"
            aria-label=(title) {
            title { (title) }
            @for cpu in &strip.cpus {
                text.label x="0" y=(px(strip.y(*cpu) + 4.0)) { "CPU " (cpu) }
            }
            @for span in spans { (turn(span, &strip)) }
            @for directed in yields { (arrow(directed, timeline, &strip)) }
            @for part in 0..=4 {
                @let us = from_us + part * STRIP_US / 4;
                @let anchor = if part == 4 { "end" } else { "start" };
                text.tick x=(px(strip.x(us))) y=(px(bottom + 14.0)) text-anchor=(anchor) {
                    (us) " us"
                }
            }
        }
    }
}

fn turn(span: &Span, strip: &Strip) -> Markup {
    let (from, to) = (strip.x(span.from_us), strip.x(span.to_us));
    let class = match vm(&span.who) {
        Some(vm) => format!("turn vm{}", vm % 6),
        None => "turn other".into(),
    };
    let middle = strip.y(span.cpu);
    html! {
        rect class=(class) x=(px(from)) width=(px((to - from).max(0.4)))
            y=(px(middle - BOX / 2.0)) height=(px(BOX)) {
            title { (span.who) ": " (span.from_us) " to " (span.to_us) " us" }
        }
        @if to - from > NAMED {
            text.who x=(px(from + 3.0)) y=(px(middle + 4.0)) {
                (span.who.chars().take(((to - from) / 7.0) as usize).collect::<String>())
            }
        }
    }
}

fn arrow(directed: &Yield, timeline: &Timeline, strip: &Strip) -> Markup {
    let (x, y) = (strip.x(directed.at_us), strip.y(directed.cpu));
    let reach = directed.at_us..directed.at_us + REACH_US;
    let ran = timeline
        .spans
        .iter()
        .filter(|s| s.who == directed.to && reach.contains(&s.from_us))
        .min_by_key(|s| s.from_us);
    let words = format!(
        "{} spun for {} ({})",
        directed.from, directed.to, directed.reason
    );
    html! {
        @match ran {
            Some(span) if directed.hit => {
                line.yield x1=(px(x)) y1=(px(y)) x2=(px(strip.x(span.from_us)))
                    y2=(px(strip.y(span.cpu))) { title { (words) } }
            }
            _ => circle.yield cx=(px(x)) cy=(px(y - BOX / 2.0)) r="2" { title { (words) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(cpu: u32, from_us: u64, to_us: u64, who: &str) -> Span {
        let who = who.into();
        Span {
            cpu,
            from_us,
            to_us,
            who,
        }
    }

    #[test]
    fn a_yield_is_a_line_to_where_its_target_ran() {
        let directed = Yield {
            cpu: 0,
            at_us: 100,
            from: "0.0".into(),
            to: "0.1".into(),
            reason: "ipi".into(),
            hit: true,
        };
        let mut timeline = Timeline {
            spans: vec![
                span(0, 0, 100, "0.0"),
                span(3, 120, 2500, "0.1"),
                span(3, 2500, 2600, "<x>"),
            ],
            yields: vec![directed],
        };
        let drawn = strips(&timeline).into_string();
        // 100 and 120 of 2000 us on 908 pixels after 52; rows 0 and 1 of 30.
        let line = "<line class=\"yield\" x1=\"97.4\" y1=\"15.0\" x2=\"106.5\" y2=\"45.0\">";
        assert!(drawn.contains(line), "{drawn}");
        assert!(drawn.contains("0.0 spun for 0.1 (ipi)"));
        assert_eq!(drawn.matches("<svg").count(), 2);
        assert!(drawn.contains("&lt;x&gt;"));
        timeline.yields[0].hit = false;
        assert!(
            !strips(&timeline)
                .into_string()
                .contains("<line class=\"yield\"")
        );
    }
}
