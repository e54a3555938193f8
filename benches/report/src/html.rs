//! The page: everything in one file, without a script, for light, dark and paper.

use std::collections::{BTreeMap, BTreeSet};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::around::{caveats, headline};
use crate::figures::{
    self, BASE, METRICS, Metric, Setting, change, gain, mean, of, others, settings, value_of,
    variants,
};
use crate::picture::{Dots, Row, bars, spread};
use crate::results::{Cell, Results};
use crate::scheduling::strips;
use crate::stats::{Estimate, Samples, sure};
use crate::words::{NONE, difference, percent, percents, points, short, with_interval};

const STYLE: &str = include_str!("page.css");

/// The report of a run as one self-contained page of HTML.
pub fn page(results: &Results) -> String {
    let variants = variants(&results.cells);
    let settings = settings(results);
    let sure = certain(&settings, &variants);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "vmfirst: plan " (results.plan) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Plan " (results.plan) }
                p { (headline(results, &variants)) }
                @for line in caveats(results).lines() { p.note { (line) } }
                (summary(&settings, &variants))
                (failures(results))
                @for ((setting, cells), sure) in settings.iter().zip(&sure) {
                    (section(setting, cells, &variants, sure))
                }
                (timelines(results))
                (facts(results))
            }
        }
    };
    page.into_string()
}

/// Of each setting, the variants whose difference counts with all others taken together.
fn certain<'a>(
    settings: &BTreeMap<Setting, Vec<&Cell>>,
    variants: &[&'a str],
) -> Vec<BTreeSet<&'a str>> {
    let all = settings.values();
    let all = all.flat_map(|cells| others(variants).map(|variant| gain(cells, variant)));
    let mut sure = sure(&all.collect::<Vec<_>>()).into_iter();
    let of_one = |_| {
        let each = others(variants).filter(|_| sure.next().unwrap_or(false));
        each.collect()
    };
    settings.keys().map(of_one).collect()
}

fn failures(results: &Results) -> Markup {
    html! {
        @if !results.failures.is_empty() {
            h2 { "Cells without a result" }
            @for failure in &results.failures {
                p.failed {
                    code { (failure.key) } ": " (failure.error) br;
                    "Console: " code { (failure.console) }
                }
            }
        }
    }
}

fn section(setting: &Setting, cells: &[&Cell], variants: &[&str], sure: &BTreeSet<&str>) -> Markup {
    let unit = &setting.unit;
    let there: Vec<&str> = variants
        .iter()
        .copied()
        .filter(|v| !of(cells, v).is_empty())
        .collect();
    let gains = gains(cells, variants, |variant| variant.into());
    html! {
        h2 { (setting.chosen.workload) " " small { (setting.shape()) } }
        (figure(
            &format!("{}: {unit}, all VMs", setting.chosen.workload),
            "mean with 95 % interval; dots are seeds",
            &throughput(cells, variants),
        ))
        @if !gains.is_empty() {
            (figure(
                &format!("{}: difference from {BASE}", setting.chosen.workload),
                "of geometric means, with 95 % interval; dots are seeds; one that is cut goes on",
                &gains,
            ))
        }
        figure {
            (spread(&format!("{}: work of each VM", setting.chosen.workload), &per_guest(cells, variants)))
            figcaption { "Work of each VM against the mean VM of its cell; a dot a VM and seed" }
        }
        (third_party(setting, cells, variants))
        (metrics(cells, &there, sure))
    }
}

/// A variant has the same colour in every picture.
fn colour(variants: &[&str], variant: &str) -> usize {
    variants.iter().position(|v| *v == variant).unwrap_or(0)
}

/// All differences in one picture.
fn summary(settings: &BTreeMap<Setting, Vec<&Cell>>, variants: &[&str]) -> Markup {
    let rows: Vec<Row> = settings
        .iter()
        .flat_map(|(setting, cells)| {
            let mut shape = format!(
                "{} {}x{}",
                setting.chosen.workload, setting.chosen.guests, setting.chosen.vcpus
            );
            for option in setting.chosen.unusual() {
                shape += &format!(" {option}");
            }
            gains(cells, variants, |variant| format!("{shape} {variant}"))
        })
        .collect();
    html! {
        @if !rows.is_empty() {
            (figure(
                &format!("All cells: difference from {BASE}"),
                "of geometric means, with 95 % interval; dots are seeds; one that is cut goes on",
                &rows,
            ))
        }
    }
}

fn figure(title: &str, note: &str, rows: &[Row]) -> Markup {
    html! {
        figure { (bars(title, rows)) figcaption { (title) " (" (note) ")" } }
    }
}

fn throughput(cells: &[&Cell], variants: &[&str]) -> Vec<Row> {
    let row = |variant: &&str| {
        let estimate = mean(cells, variant, value_of)?;
        Some(Row {
            label: variant.to_string(),
            colour: colour(variants, variant),
            estimate,
            samples: of(cells, variant).values().map(|c| c.value).collect(),
            words: with_interval(estimate, short),
        })
    };
    variants.iter().filter_map(row).collect()
}

/// Differences from the base; `label` names a variant's row.
fn gains(cells: &[&Cell], variants: &[&str], label: impl Fn(&str) -> String) -> Vec<Row> {
    let row = |variant: &str| {
        let estimate = gain(cells, variant)?;
        Some(Row {
            label: label(variant),
            colour: colour(variants, variant),
            estimate,
            samples: seeds(cells, variant),
            words: percents(estimate),
        })
    };
    others(variants).filter_map(row).collect()
}

/// Each of a variant's seeds against all of the base's, in percent.
fn seeds(cells: &[&Cell], variant: &str) -> Vec<f64> {
    let base: Vec<f64> = of(cells, BASE).values().map(|c| c.value).collect();
    let of_one = |cell: &&Cell| {
        let samples = Samples::Apart(base.clone(), vec![cell.value]);
        Some(samples.percent()?.mean)
    };
    of(cells, variant).values().filter_map(of_one).collect()
}

fn per_guest(cells: &[&Cell], variants: &[&str]) -> Vec<Dots> {
    let dots = |cell: &Cell| {
        let mean = cell.per_guest.iter().sum::<f64>() / cell.per_guest.len() as f64;
        let share = move |value: &f64| if mean > 0.0 { value / mean } else { 1.0 };
        cell.per_guest.iter().map(share).collect::<Vec<_>>()
    };
    let row = |variant: &&str| {
        let cells = of(cells, variant);
        (!cells.is_empty()).then(|| Dots {
            label: variant.to_string(),
            colour: colour(variants, variant),
            values: cells.values().flat_map(|cell| dots(cell)).collect(),
        })
    };
    variants.iter().filter_map(row).collect()
}

/// What the task beside the VMs got, where there is one.
fn third_party(setting: &Setting, cells: &[&Cell], variants: &[&str]) -> Markup {
    let row = |variant: &&str| {
        let estimate = mean(cells, variant, figures::third_party)?;
        Some(Row {
            label: variant.to_string(),
            colour: colour(variants, variant),
            estimate,
            samples: of(cells, variant)
                .values()
                .filter_map(|c| figures::third_party(c))
                .collect(),
            words: with_interval(estimate, percent),
        })
    };
    let rows: Vec<Row> = variants.iter().filter_map(row).collect();
    html! {
        @if !rows.is_empty() {
            (figure(
                &format!("{}: a third party's share of one CPU", setting.chosen.workload),
                "mean with 95 % interval; dots are seeds",
                &rows,
            ))
        }
    }
}

fn metrics(cells: &[&Cell], variants: &[&str], sure: &BTreeSet<&str>) -> Markup {
    let gains: Vec<_> = others(variants)
        .map(|variant| (gain(cells, variant), sure.contains(variant)))
        .collect();
    html! {
        div.table {
            table {
                thead {
                    tr {
                        th {}
                        @for variant in variants { th { (variant) } }
                        @for variant in others(variants) { th { (variant) " to " (BASE) } }
                    }
                }
                tbody {
                    tr {
                        th { "work, all VMs" }
                        @for variant in variants {
                            td { (in_words(mean(cells, variant, value_of), short)) }
                        }
                        @for (gain, sure) in &gains {
                            td class=(certainty(*gain, *sure)) { (difference(*gain, *sure)) }
                        }
                    }
                    @for metric in METRICS { (metric_row(metric, cells, variants)) }
                }
            }
        }
    }
}

fn metric_row(metric: &Metric, cells: &[&Cell], variants: &[&str]) -> Markup {
    let means: Vec<_> = variants.iter().map(|v| mean(cells, v, metric.of)).collect();
    let show = if metric.as_share { percent } else { short };
    html! {
        @if means.iter().any(Option::is_some) {
            tr {
                th { (metric.title) }
                @for mean in means { td { (in_words(mean, show)) } }
                @for variant in others(variants) {
                    td {
                        @match change(metric, cells, variant) {
                            Some(change) if metric.as_share => (points(change)),
                            Some(change) => (percents(change)),
                            None => (NONE),
                        }
                    }
                }
            }
        }
    }
}

fn in_words(estimate: Option<Estimate>, show: fn(f64) -> String) -> String {
    estimate.map_or(NONE.into(), |e| with_interval(e, show))
}

fn certainty(gain: Option<Estimate>, sure: bool) -> &'static str {
    match gain {
        Some(gain) if sure && gain.mean > 0.0 => "sure up",
        Some(_) if sure => "sure down",
        _ => "",
    }
}

fn timelines(results: &Results) -> Markup {
    let traced = results
        .cells
        .iter()
        .filter_map(|c| Some((c, c.timeline.as_ref()?)));
    html! {
        @for (cell, timeline) in traced {
            h2 { "What ran where " small { (cell.key()) } }
            p.note {
                "The begin of the window of one cell, traced, and so not among the figures above."
            }
            figure { (strips(timeline)) }
        }
    }
}

fn facts(results: &Results) -> Markup {
    let machines: BTreeSet<_> = results.cells.iter().map(|c| &c.machine).collect();
    html! {
        h2 { "What it was measured with" }
        (facts_table("versions", &results.versions))
        @for machine in machines {
            @if !machine.is_empty() { (facts_table("host", machine)) }
        }
    }
}

fn facts_table(title: &str, facts: &dense_record::measured::Facts) -> Markup {
    html! {
        details open {
            summary { (title) }
            div.table {
                table {
                    @for (name, value) in facts { tr { th { (name) } td { (value) } } }
                }
            }
        }
    }
}
