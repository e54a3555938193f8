//! What the scheduler's patches cost, in instructions: where one CPU of the emulated
//! host is busy, a ns is one.

use e2e::probe;
use testbed::kernel::Variant;

fn number(text: &str, before: &str) -> u64 {
    let rest = text
        .split(before)
        .nth(1)
        .unwrap_or_else(|| panic!("no `{before}` in {text}"));
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|n| n.parse().ok()).unwrap()
}

#[test]
fn a_switch_costs_the_same_when_nobody_yields() {
    let mean = |variant| {
        let (results, _) = probe(variant, 1, &["switches"]);
        results[0]["mean_ns"].as_f64().unwrap()
    };
    let (stock, patched) = (mean(Variant::Stock), mean(Variant::Patched));
    assert!(stock > 1000.0, "{stock}");
    assert!(
        patched <= stock * 1.001,
        "{patched} instructions a round, {stock} with stock"
    );
}

/// KUnit's test counts cycles; it says what is least.
#[test]
fn settling_costs_what_was_promised() {
    let (_, console) = probe(Variant::Counts, 1, &["switches --rounds 1"]);
    let transfer = number(&console, "cycles: transfer ");
    let refusal = number(&console, ", refusal ");
    assert!(transfer > 0 && refusal > 0, "{transfer} {refusal}");
    assert!(transfer <= 300, "a transfer takes {transfer} instructions");
    assert!(refusal <= 60, "a refusal takes {refusal} instructions");
}
