//! IPI-aware directed yield, by bare vCPUs in the emulated host: which ways of
//! sending are seen, what a record costs in instructions, and that a storm of
//! IPIs with resets and new settings breaks nothing.

use e2e::probe;
use serde_json::Value;
use testbed::kernel::Variant;

fn count(result: &Value, name: &str) -> u64 {
    result["counters"][name]
        .as_u64()
        .unwrap_or_else(|| panic!("no {name}: {result}"))
}

/// Yields that the scheduler took.
fn hits(result: &Value) -> u64 {
    let counters = result["counters"].as_object().unwrap();
    let taken = counters
        .iter()
        .filter(|(name, _)| name.starts_with("yield_hits_"));
    taken.map(|(_, value)| value.as_u64().unwrap()).sum()
}

fn number(result: &Value, name: &str) -> u64 {
    result[name].as_u64().unwrap_or_else(|| panic!("{result}"))
}

#[test]
fn every_way_to_send_an_ipi_is_seen() {
    let commands = [
        "ping --via mmio",
        "ping --via msr",
        "ping --via hypercall",
        "ping --via mmio --vcpus 4",
        "ping --via msr --vcpus 4",
        "ping --via hypercall --vcpus 4",
        "ping --via mmio --burst --vcpus 5",
        "ping --via msr --burst --vcpus 5",
    ];
    let (results, _) = probe(Variant::Patched, 1, &commands);
    for (command, result) in commands.iter().zip(&results) {
        // All share a CPU: whoever is waited for never runs.
        let due = count(result, "yield_hits_ipi");
        assert!(number(result, "rounds") > 5, "{command}: {result}");
        assert!(
            due > 0 && due * 20 >= hits(result) * 19,
            "{command}: {result}"
        );
    }
}

#[test]
fn switched_off_nothing_is_seen() {
    let commands = [
        "ping --via mmio --set ipi_tracking=N",
        "ping --via msr --burst --vcpus 5 --set ipi_tracking=N",
    ];
    let (results, _) = probe(Variant::Patched, 1, &commands);
    for (command, result) in commands.iter().zip(&results) {
        assert!(count(result, "spin_exits") > 0, "{command}: {result}");
        assert_eq!(count(result, "yield_hits_ipi"), 0, "{command}: {result}");
        assert_eq!(count(result, "yield_hits_answer"), 0, "{command}: {result}");
    }
}

/// The emulated host's cycles are instructions.
#[test]
fn records_cost_what_was_promised() {
    let commands = [
        "ping --via msr --set ipi_tracking=N",
        "ping --via msr --set ipi_tracking=Y",
    ];
    let (results, _) = probe(Variant::Patched, 1, &commands);
    let [off, on] = results.as_slice() else {
        panic!("{results:?}");
    };
    let send = number(on, "send_cycles") - number(off, "send_cycles");
    assert!(send <= 25, "a tracked send costs {send} more: {on} {off}");
    let [end_off, end_on] = [off, on].map(|result| number(result, "eoi_cycles"));
    assert_eq!(
        end_on, end_off,
        "an EOI has nothing to do with it: {on} {off}"
    );
}

#[test]
fn a_pick_by_the_own_record_costs_the_same_for_16_and_240_vcpus() {
    let commands = ["gap --vcpus 16", "gap --vcpus 240"];
    let (results, _) = probe(Variant::Patched, 2, &commands);
    let (few, many) = (&results[0], &results[1]);
    assert!(count(few, "spin_served") > 100, "{few}");
    let (few, many) = (number(few, "median_cycles"), number(many, "median_cycles"));
    assert!(many <= few + few / 50, "{many} for 240 vCPUs, {few} for 16");
}

/// A receiver whose thread sleeps in the host, on a page that nobody brings, is not about to
/// answer: the spinner goes on to yield to others.
#[test]
fn a_receiver_that_sleeps_in_the_host_keeps_nobody_from_being_helped() {
    let (results, console) = probe(Variant::Kunit, 1, &["stuck"]);
    let (exits, served) = (
        count(&results[0], "spin_exits"),
        count(&results[0], "spin_served"),
    );
    assert!(exits > 20, "{results:?} {console}");
    assert_eq!(served, 0, "{results:?}");
    // Most spin exits keep their turn: the spinner is owed a slice, since it lends.
    assert!(hits(&results[0]) > 20, "{results:?}");
}

#[test]
fn a_storm_with_resets_and_new_settings_is_clean_for_lockdep() {
    survive(Variant::Kunit);
}

#[test]
#[ignore = "builds a kernel of its own: `cargo test -p e2e --features emulator -- --ignored`"]
fn a_storm_with_resets_and_new_settings_is_clean_for_kasan() {
    survive(Variant::Kasan);
}

#[test]
#[ignore = "builds a kernel of its own: `cargo test -p e2e --features emulator -- --ignored`"]
fn a_storm_with_resets_and_new_settings_is_clean_for_kcsan() {
    survive(Variant::Kcsan);
}

fn survive(variant: Variant) {
    let (results, console) = probe(variant, 4, &["storm --vcpus 8 --ms 800"]);
    assert!(number(&results[0], "vms") >= 3, "{results:?}");
    assert!(
        number(&results[0], "interrupts_taken") > 1000,
        "{results:?}"
    );
    assert_eq!(number(&results[0], "settings"), 2, "{results:?}");
    assert!(!console.contains("data-race"), "{console}");
}
