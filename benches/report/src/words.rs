//! Figures in words.

use crate::stats::Estimate;

/// Stands for what is not there.
pub const NONE: &str = "-";

/// A difference, and whether it counts.
pub fn verdict(estimate: Option<Estimate>) -> String {
    let Some(estimate) = estimate else {
        return NONE.into();
    };
    let verdict = match estimate.excludes_zero() {
        Some(true) => "excludes 0",
        Some(false) => "includes 0",
        None => "one pair: no interval",
    };
    let effect = estimate.effect_size().map(|d| format!("; d = {d:+.1}"));
    let effect = effect.unwrap_or_default();
    format!("{} % ({verdict}{effect})", signed(estimate))
}

/// The text, or a sign that there is none.
pub fn or_none(text: String) -> String {
    if text.is_empty() { NONE.into() } else { text }
}

/// With its sign and interval.
pub fn signed(estimate: Estimate) -> String {
    with_interval(estimate, |v| format!("{v:+.1}"))
}

/// With its interval, if it has one.
pub fn with_interval(estimate: Estimate, show: impl Fn(f64) -> String) -> String {
    match estimate.half_width {
        Some(half) => {
            let half = show(half);
            format!("{} ± {}", show(estimate.mean), half.trim_start_matches('+'))
        }
        None => show(estimate.mean),
    }
}

/// A share.
pub fn percent(value: f64) -> String {
    format!("{:.1} %", 100.0 * value)
}

/// Three or four digits that count.
pub fn short(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1000.0 {
        format!("{value:.0}")
    } else if magnitude >= 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
