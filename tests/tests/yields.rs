//! What yields give and take, by bare vCPUs in virtual time: a third task keeps its fair
//! share, yielding gains nothing, a thread that wakes up has the CPU as soon as on a stock
//! host, a neighbour is not preempted more often, a hand-over takes one yield, and switched
//! off everybody is picked as by the stock kernel.

use e2e::{probe, probe_seeded};
use serde_json::Value;
use testbed::kernel::Variant;

/// CPU times of the threads called `name`, in ns.
fn times(result: &Value, name: &str) -> Vec<u64> {
    let list = result[name]
        .as_array()
        .unwrap_or_else(|| panic!("{result}"));
    list.iter().map(|ns| ns.as_u64().unwrap()).collect()
}

/// The sum of `part` in all CPU time that was given out.
fn share(result: &Value, part: &str) -> f64 {
    let sum = |name| times(result, name).iter().sum::<u64>() as f64;
    sum(part)
        / ["pair_ns", "rival_ns", "hogs_ns"]
            .map(sum)
            .iter()
            .sum::<f64>()
}

fn number(result: &Value, name: &str) -> f64 {
    result[name].as_f64().unwrap_or_else(|| panic!("{result}"))
}

#[test]
fn nobody_gains_or_loses_by_the_yields_of_others() {
    // Of one second the bounds are some ms: a tick, and what two vCPUs may owe when the
    // clock stops.
    shares_are_kept_for(4_000);
}

#[test]
#[ignore = "ten virtual seconds: `cargo test -p e2e --features emulator --test yields -- --ignored`"]
fn nobody_gains_or_loses_in_ten_seconds() {
    shares_are_kept_for(10_000);
}

/// A third task beside two vCPUs that yield to each other: all three alike, or the yielder
/// and the third task in one group and the target in another.
const THIRDS: [&str; 3] = [
    "--what race --hogs 1",
    "--what spin --hogs 1",
    "--what race --hogs 1 --groups",
];

fn shares_are_kept_for(ms: u64) {
    let rivals = ["--what race --rival", "--what spin --rival"];
    let commands = THIRDS.iter().chain(&rivals);
    let results = run(Variant::Patched, commands, ms);
    let [race, spin, groups, rival, spun] = results.as_slice() else {
        panic!("{results:?}");
    };
    // One of three on a CPU.
    for result in [race, spin] {
        assert!(share(result, "hogs_ns") >= 0.98 / 3.0, "{result}");
    }
    // One of two in one of two groups.
    assert!(share(groups, "hogs_ns") >= 0.98 / 4.0, "{groups}");
    // One of two VMs, of the same size.
    for result in [rival, spun] {
        assert!(share(result, "pair_ns") <= 0.5 * 1.005, "{result}");
    }
}

fn run<'a>(
    variant: Variant,
    commands: impl IntoIterator<Item = &'a &'a str>,
    ms: u64,
) -> Vec<Value> {
    run_seeded(variant, commands, ms, 1)
}

fn run_seeded<'a>(
    variant: Variant,
    commands: impl IntoIterator<Item = &'a &'a str>,
    ms: u64,
    seed: u64,
) -> Vec<Value> {
    let line = |args: &&str| format!("yields {args} --ms {ms}");
    let commands: Vec<String> = commands.into_iter().map(line).collect();
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    probe_seeded(variant, 2, &commands, seed).0
}

/// A thread sleeps and wakes up beside vCPUs that pass each other their turns, on three hosts
/// for each of the lines: the 99th of a hundred delays and the longest, in ns. On one host
/// the 99th of the stock kernel's moves by a third with the seed.
fn delays(variant: Variant, lines: &[&str]) -> Vec<(u64, u64)> {
    let hosts = [1, 2, 3, 4, 5].map(|seed| run_seeded(variant, lines, 500, seed));
    let of_line = |line| {
        let mut delays: Vec<u64> = hosts
            .iter()
            .flat_map(|results| times(&results[line], "delays_ns"))
            .collect();
        delays.sort_unstable();
        let last = delays.len() - 1;
        assert!(last > 1_000, "{} {last}", lines[line]);
        (delays[last * 99 / 100], delays[last])
    };
    (0..lines.len()).map(of_line).collect()
}

/// The goal is 1.1. Beside three vCPUs without groups it is 1.18 (docs/directed-yield.md).
const P99_TO_STOCK: f64 = 1.25;

/// A slice on two CPUs, and a tick.
const SLICE_AND_TICK_NS: u64 = 1_400_000 + 4_000_000;

/// One, three and eight vCPUs that spin on the thread's CPU, and one on another that a hog
/// keeps from running; all in one group, or a group for the VM.
const WAKE_UPS: [(u32, &str); 6] = [
    (1, ""),
    (3, ""),
    (8, ""),
    (1, " --own-group"),
    (3, " --own-group"),
    (8, " --own-group"),
];

#[test]
fn a_wake_up_waits_as_on_a_stock_host() {
    let lines = WAKE_UPS.map(|(lenders, group)| {
        let vcpus = lenders + 1;
        format!("--what spin --vcpus {vcpus} --place crowd --hogs 1 --sleeper{group}")
    });
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let pairs = delays(Variant::Stock, &lines)
        .into_iter()
        .zip(delays(Variant::Patched, &lines));
    let of_lines: Vec<_> = lines.iter().zip(pairs).collect();
    for (line, (stock, ours)) in &of_lines {
        println!("{line}: stock {stock:?}, ours {ours:?}");
    }
    for (line, (stock, ours)) in of_lines {
        assert!(ours.0 as f64 <= P99_TO_STOCK * stock.0 as f64, "{line}");
        assert!(ours.1 <= SLICE_AND_TICK_NS.max(stock.1), "{line}");
    }
}

/// A VM that yields as fast as it can to a vCPU that waits behind somebody else's process:
/// how often that one is preempted, and what it gets.
#[test]
fn a_hostile_pair_preempts_its_neighbour_no_more_often() {
    let lines = ["spin", "race"].map(|what| format!("--what {what} --place apart --hogs 2"));
    let lines = lines.each_ref().map(String::as_str);
    let stock = run(Variant::Stock, &lines, 2_000);
    let ours = run(Variant::Patched, &lines, 2_000);
    for ((stock, ours), line) in stock.iter().zip(&ours).zip(lines) {
        let most = |result: &Value| times(result, "hogs_preempted").into_iter().max().unwrap();
        let least = |result: &Value| times(result, "hogs_ns").into_iter().min().unwrap();
        println!("{line}: {} and {}", most(stock), most(ours));
        println!("{line}: {} and {} ns", least(stock), least(ours));
        assert!(
            most(ours) as f64 <= 1.1 * most(stock) as f64,
            "{line}: {ours} {stock}"
        );
        // Half of a CPU.
        assert!(least(ours) as f64 >= 0.98 * 1e9, "{line}: {ours}");
    }
}

#[test]
fn a_hand_over_takes_one_yield() {
    let (results, _) = probe(Variant::Patched, 2, &["yields --what turns --ms 200"]);
    let (yields, rounds) = (number(&results[0], "yields"), number(&results[0], "rounds"));
    assert!(rounds > 10_000.0, "{results:?}");
    assert!(yields <= 1.05 * rounds, "{results:?}");
}

/// With a CPU each and threads that never sleep on both. Where these are equally many,
/// the yields bring the two to run at the same time, and then hardly any is needed: how
/// often they look for their turn is as if nobody else were there. Where one of the two
/// gets less, the other one waits, but no turn of that one is lost.
#[test]
fn hand_overs_between_cpus_are_as_if_nobody_else_were_there() {
    let turns = "yields --what turns --place apart --ms 200";
    let commands = [0, 2, 4, 3].map(|hogs| format!("{turns} --hogs {hogs}"));
    let commands = commands.each_ref().map(String::as_str);
    let (results, _) = probe(Variant::Patched, 2, &commands);
    let [alone, two, four, three] = results.as_slice() else {
        panic!("{results:?}");
    };
    let rounds = |result| number(result, "rounds");
    let looks = |result| number(result, "yields") / rounds(result);
    let least = |result| times(result, "pair_ns").into_iter().min().unwrap() as f64;
    let speed = |result| rounds(result) / least(result);
    for result in [two, four, three] {
        assert!(speed(result) >= 0.95 * speed(alone), "{result} {alone}");
    }
    for result in [two, four] {
        let taken = number(&result["kvm"], "directed_yield_successful");
        assert!(taken <= 0.01 * rounds(result), "{result}");
        assert!(looks(result) <= 1.05 * looks(alone), "{result} {alone}");
    }
}

/// The two kernels differ by some instructions an exit, so that the same pick comes some
/// ns earlier or later, and which of two equals goes first is chance. How often each is
/// picked, and for how long, is not.
#[test]
fn switched_off_all_are_picked_as_often_as_by_the_stock_kernel() {
    let race = "yields --what race --hogs 1 --picks --ms 300";
    let off = "--set features=NO_DIRECTED_YIELD --set ipi_tracking=N";
    let off = format!("{race} {off}");
    let run = |variant, command: &str| probe(variant, 2, &[command]).0.remove(0);
    let stock = run(Variant::Stock, race);
    let off = run(Variant::Patched, &off);
    let on = run(Variant::Patched, race);
    // Of what the hog leaves, which is nearly nothing.
    let pairs = |result| share(result, "pair_ns");
    assert!(
        (pairs(&off) / pairs(&stock) - 1.0).abs() < 0.1,
        "{stock} {off}"
    );
    assert!(
        (picks_of_pair(&off) / picks_of_pair(&stock) - 1.0).abs() < 0.1,
        "{stock} {off}"
    );
    assert!(
        picks_of_pair(&on) > 2.0 * picks_of_pair(&stock),
        "{stock} {on}"
    );
}

/// How often one of the pair is picked before the hog is again.
fn picks_of_pair(result: &Value) -> f64 {
    let picks = result["picks"].as_str().unwrap();
    let hogs = picks.matches('h').count();
    (picks.len() - hogs) as f64 / hogs as f64
}
