//! The report's page in headless Chromium: nothing fails, every picture is there, nothing
//! sticks out of one, and text can be read in light, in dark and on paper. Screenshots
//! stay in `target/tmp/report-*.png` for whoever wants to look.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dense_record::measured::{Span, Timeline, Yield};
use dense_report::results::{Failure, Results};
use dense_report::write_all;
use e2e::browser::Browser;
use serde_json::{Value, json};

/// Lowest contrast of text that is easy to read: WCAG 2 level AA.
const CONTRAST: f64 = 4.5;

/// The published results, with what only other plans have.
fn results() -> Results {
    let quick = testbed::workshop::repo().join("benches/results/quick.json");
    let mut results = Results::load(&quick).unwrap();
    for cell in &mut results.cells {
        cell.counters.insert(
            "third_party_run_ns".into(),
            400_000_000 + cell.chosen.seed * 1_000_000,
        );
    }
    let mut traced = results.cells[0].clone();
    traced.timeline = Some(timeline());
    results.cells.push(traced);
    results.failures.push(Failure {
        key: "dbench/2x4on4/q3000/stock/s9".into(),
        error: "guest 1: did not say READY in time; it said last: <b>&".into(),
        console: "consoles/x.txt".into(),
    });
    results
}

fn timeline() -> Timeline {
    let turn = |number: u64| Span {
        cpu: (number % 4) as u32,
        from_us: number / 4 * 50,
        to_us: number / 4 * 50 + 45,
        who: match number % 9 {
            8 => "third-party".into(),
            n => format!("{}.{}", n % 2, number % 4),
        },
    };
    let spans: Vec<Span> = (0..200).map(turn).collect();
    let yields = spans.windows(5).step_by(7).map(|pair| Yield {
        cpu: pair[0].cpu,
        at_us: pair[0].from_us + 30,
        from: pair[0].who.clone(),
        to: pair[4].who.clone(),
        reason: "ipi".into(),
        hit: true,
    });
    Timeline {
        yields: yields.collect(),
        spans,
    }
}

/// Each picture's name, size, and texts that stick out of it.
const PICTURES: &str = "
    return [...document.querySelectorAll('svg')].map(svg => {
        const frame = svg.getBoundingClientRect();
        const outside = [...svg.querySelectorAll('text')].filter(text => {
            const box = text.getBoundingClientRect();
            return box.left < frame.left - 1 || box.right > frame.right + 1
                || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
        });
        return {
            name: svg.getAttribute('aria-label'),
            area: frame.width * frame.height,
            shapes: svg.querySelectorAll('rect, circle').length,
            outside: outside.map(text => text.textContent),
        };
    });";

/// The colours of each kind of text, and of the page.
const COLOURS: &str = "
    const colour = (selector, property) =>
        getComputedStyle(document.querySelector(selector))[property];
    return {
        paper: colour('body', 'backgroundColor'),
        texts: [colour('body', 'color'), colour('p.note', 'color'),
            colour('svg .label', 'fill'), colour('svg .figure', 'fill')],
    };";

#[test]
fn the_page_is_whole_and_readable_in_light_dark_and_print() {
    let folder = tempfile::tempdir().unwrap();
    write_all(&results(), folder.path()).unwrap();
    let browser = Browser::start();
    browser.open(&folder.path().join("report.html"));
    let pictures = browser.script(PICTURES);
    let pictures = pictures.as_array().unwrap();
    // The summary; four of each workload; the timeline's strips.
    let names: Vec<_> = pictures
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    for name in [
        "dbench: k ops/s",
        "malloc: difference",
        "dbench: work of each VM",
        "third party",
        "What ran",
    ] {
        assert!(names.iter().any(|n| n.contains(name)), "{name}: {names:?}");
    }
    assert_eq!(pictures.len(), 1 + 3 * 4 + 2, "{names:?}");
    for picture in pictures {
        assert!(picture["area"].as_f64() > Some(1000.0), "{picture}");
        assert!(picture["shapes"].as_u64() > Some(0), "{picture}");
        assert_eq!(picture["outside"], json!([]), "{picture}");
    }
    let scrolls = "return document.documentElement.scrollWidth > window.innerWidth";
    assert_eq!(browser.script(scrolls), json!(false));

    let mut papers = BTreeMap::new();
    for (media, scheme) in [("screen", "light"), ("screen", "dark"), ("print", "dark")] {
        browser.look_as(media, scheme);
        let colours = browser.script(COLOURS);
        let paper = luminance(&colours["paper"]);
        for text in colours["texts"].as_array().unwrap() {
            let text = luminance(text);
            let contrast = (paper.max(text) + 0.05) / (paper.min(text) + 0.05);
            assert!(
                contrast >= CONTRAST,
                "{media} {scheme}: {contrast:.1}: {colours}"
            );
        }
        papers.insert((media, scheme), paper);
        let name = format!("report-{media}-{scheme}.png");
        let shot = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(shot, browser.screenshot()).unwrap();
    }
    assert!(papers[&("screen", "light")] > 0.9);
    assert!(papers[&("screen", "dark")] < 0.1);
    assert!(papers[&("print", "dark")] > 0.9);
    assert_eq!(browser.complaints(), Vec::<Value>::new());
}

#[test]
fn a_broken_page_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let page: PathBuf = folder.path().join("broken.html");
    fs::write(&page, "<script>nonsense()</script><img src=nowhere.png>").unwrap();
    let browser = Browser::start();
    browser.open(&page);
    assert_eq!(browser.complaints().len(), 2, "{:?}", browser.complaints());
}

/// Relative luminance by WCAG 2 of `rgb(r, g, b)`.
fn luminance(colour: &Value) -> f64 {
    let numbers = colour
        .as_str()
        .unwrap()
        .trim_start_matches(|c: char| !c.is_ascii_digit());
    let linear = numbers.split([',', ')']).take(3).map(|n| {
        let share = n.trim().parse::<f64>().unwrap() / 255.0;
        match share <= 0.04045 {
            true => share / 12.92,
            false => ((share + 0.055) / 1.055).powf(2.4),
        }
    });
    linear
        .zip([0.2126, 0.7152, 0.0722])
        .map(|(c, weight)| c * weight)
        .sum()
}
