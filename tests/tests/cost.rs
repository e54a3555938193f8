//! What the scheduler's patches cost, in instructions: on one CPU of the emulated host a
//! ns is one.

use e2e::probe;
use serde_json::Value;
use testbed::kernel::Variant;

/// How often a mean of 20,000 rounds is taken: it moves by some instructions.
const MEANS: usize = 9;
const SWITCHES: [&str; MEANS] = ["switches"; MEANS];

/// Each switch asks whether somebody has yielded there.
#[test]
fn a_switch_costs_hardly_more() {
    let rounds = |variant| {
        let yields = ["yields --what race --ms 10"].as_slice();
        let commands = [SWITCHES.as_slice(), yields, &SWITCHES].concat();
        let (results, _) = probe(variant, 1, &commands);
        let mean = |results: &[Value]| {
            let sum: f64 = results.iter().map(|r| number(r, "mean_ns")).sum();
            sum / results.len() as f64
        };
        (mean(&results[..MEANS]), mean(&results[MEANS + 1..]))
    };
    let (stock, patched) = (rounds(Variant::Stock), rounds(Variant::Patched));
    println!("two wake-ups and switches: {stock:?}, {patched:?}");
    assert!(stock.0 > 1000.0, "{stock:?}");
    assert!(
        patched.0 <= stock.0 * 1.001,
        "patched {patched:?}, stock {stock:?}"
    );
    assert!(
        patched.1 <= stock.1 * 1.003,
        "patched {patched:?}, stock {stock:?}"
    );
}

/// All of a yield from exit to the other one's entry, beside the stock kernel's.
#[test]
fn yields_cost_little_more_than_ordinary_ones() {
    let race = "yields --what race --ms 400";
    // Last, as nothing sets it back.
    let off = format!("{race} --set features=NO_DIRECTED_YIELD --set ipi_tracking=N");
    let paid = ["transfer", "penalty --set rate_window_ns=1000000000"];
    let paid = paid.map(|mode| format!("{race} --set mode={mode}"));
    let paid = paid.each_ref().map(String::as_str);
    let (stock, _) = probe(Variant::Stock, 1, &[race]);
    let (ours, _) = probe(Variant::Patched, 1, &[race, &off]);
    let (debooster, _) = probe(Variant::Compare, 1, &paid);
    let ([lend, off], [transfer, refused]) = (ours.as_slice(), debooster.as_slice()) else {
        panic!("{ours:?} {debooster:?}");
    };
    for (result, what) in [
        (&stock[0], "stock"),
        (off, "off"),
        (lend, "lend"),
        (transfer, "transfer"),
        (refused, "refused"),
    ] {
        println!("a yield, {what}: {:.0}", cost(result));
    }
    // All but a few were settled, or refused, as the mode says.
    for (result, name) in [(transfer, "transfers"), (refused, "refused_rate")] {
        let settled = number(&result["scheduler"], name);
        assert!(
            settled > 0.99 * number(result, "yields"),
            "{name}: {result}"
        );
    }
    let more = |result| cost(result) - cost(&stock[0]);
    assert!(more(off) <= 30.0, "{off} {stock:?}");
    assert!(more(lend) <= 90.0, "{lend} {stock:?}");
    assert!(more(transfer) <= 300.0, "{transfer} {stock:?}");
    assert!(more(refused) <= 60.0, "{refused} {stock:?}");
}

/// CPU time of the two for one yield.
fn cost(result: &Value) -> f64 {
    let times = result["pair_ns"].as_array().unwrap();
    let sum: f64 = times.iter().map(|ns| ns.as_f64().unwrap()).sum();
    sum / number(result, "yields")
}

fn number(result: &Value, name: &str) -> f64 {
    result[name]
        .as_f64()
        .unwrap_or_else(|| panic!("{name}: {result}"))
}
