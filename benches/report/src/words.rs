//! Figures in words.

use crate::stats::Estimate;

/// Stands for what is not there.
pub const NONE: &str = "-";

/// Stands behind a difference that counts with all of its table taken together.
pub const SURE: &str = " sure";

/// A difference in percent with its interval, and whether it counts.
pub fn difference(estimate: Option<Estimate>, sure: bool) -> String {
    let mark = if sure { SURE } else { "" };
    estimate.map_or(NONE.into(), |e| percents(e) + mark)
}

/// A difference in percent with its interval.
pub fn percents(estimate: Estimate) -> String {
    let signed = |v: f64| format!("{:+.1}", tenths(v));
    match estimate.interval {
        Some((low, high)) => {
            format!(
                "{} % ({} to {})",
                signed(estimate.mean),
                signed(low),
                signed(high)
            )
        }
        None => format!("{} %", signed(estimate.mean)),
    }
}

/// The text, or a sign that there is none.
pub fn or_none(text: String) -> String {
    if text.is_empty() { NONE.into() } else { text }
}

/// A difference of shares.
pub fn points(estimate: Estimate) -> String {
    let words = with_interval(estimate, |v| format!("{:+.1}", tenths(v)));
    format!("{words} points")
}

/// Rounded, and never -0.
fn tenths(value: f64) -> f64 {
    (10.0 * value).round() / 10.0 + 0.0
}

/// A mean with half of its interval, if it has one.
pub fn with_interval(estimate: Estimate, show: impl Fn(f64) -> String) -> String {
    match estimate.interval {
        Some((low, high)) => {
            let half = show((high - low) / 2.0);
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
