//! The C of the kernel series, and of the kernel itself, against this crate, bit for bit.
//!
//! `SCHED_CORE_INPUTS=10000000 cargo test --release -p sched-core --test differential` for
//! more inputs.

use std::sync::OnceLock;

mod support;

use sched_core::debooster::{Mode, Tunables};
use support::cases::{IPI_EOI_WORD, IPI_RECORD_WORD, YIELD_MATH};
use support::fair::{self, FAIR};
use support::spin::{self, SPIN, SPIN_EXIT};
use support::{Case, Inputs, NARGS, Worker, count, source};

const YIELD_HEADER: &str = "kernel/sched/yield_math.h";
const EOI_HEADER: &str = "arch/x86/kvm/ipi_eoi_word.h";
const IPI_HEADER: &str = "arch/x86/kvm/ipi_record_word.h";

/// Inputs that show a mutant: far fewer are enough.
const MUTANT_INPUTS: usize = 100_000;

#[test]
fn yield_math() {
    compare_all(&source::header(YIELD_HEADER), YIELD_MATH, NARGS, count());
}

#[test]
fn ipi_record_word() {
    compare_all(&source::header(IPI_HEADER), IPI_RECORD_WORD, NARGS, count());
}

#[test]
fn ipi_eoi_word() {
    compare_all(&source::header(EOI_HEADER), IPI_EOI_WORD, NARGS, count());
}

/// What a spin exit does: the record's whole life, and the search for a target, by the
/// kernel's own functions on vCPUs made of numbers.
#[test]
fn spin() {
    compare_all(&spin::definitions(), SPIN, NARGS, count() / 10);
}

/// The whole spin exit, with the scan. That is a function of the stock kernel, so this needs
/// the kernel's source.
#[test]
fn spin_exit() {
    if let Some(c) = spin_exit_source() {
        compare_all(&c, SPIN_EXIT, NARGS, count() / 10);
    }
}

#[test]
fn a_change_in_a_spin_exit_is_noticed() {
    let mutants = [
        ("spin_exit", "if (awaited) {", "if (0) {"),
        ("spin_exit", "awaited == 1", "0"),
        ("spin_exit", "if (idx == me->vcpu_idx)", "if (0)"),
        ("spin_exit", "try--;", ""),
    ];
    if let Some(c) = spin_exit_source() {
        assert_all_noticed(&c, SPIN_EXIT, NARGS, &mutants);
    }
}

/// The functions of a spin exit; nothing, and why, where the kernel's source isn't.
fn spin_exit_source() -> Option<String> {
    const KVM_MAIN: &str = "virt/kvm/kvm_main.c";
    let files = source::stock(&[KVM_MAIN])
        .inspect_err(|why| eprintln!("SKIP: {why}"))
        .ok()?;
    let kvm_main = source::patched(KVM_MAIN, &files[0]);
    Some(spin::definitions_with_scan(&kvm_main))
}

/// One thing changed in the kernel's functions: the comparison has to notice.
#[test]
fn a_change_in_spin_is_noticed() {
    let mutants = [
        ("records", "record->word &= ~IPI_RECORD_OPEN;", ""),
        ("records", "record->sent = (u32)jiffies;", ""),
        ("records", "++probes > IPI_RECORD_PROBES", "++probes > 15"),
        (
            "records",
            "vcpu->arch.last_host_tsc < (*best)",
            "vcpu->arch.last_host_tsc > (*best)",
        ),
        ("records", "apicv_active && !off", "apicv_active"),
        (
            "records",
            "READ_ONCE(receiver->wants_to_run) && !off",
            "READ_ONCE(receiver->wants_to_run)",
        ),
        (
            "records",
            "!(kernel_mode || me->arch.guest_state_protected)",
            "!kernel_mode",
        ),
        ("records", "__clear_bit(idx, map)", ""),
        ("search", "KVM_YIELD_IPI) > 0", "KVM_YIELD_IPI) >= 0"),
        ("search", "found->pending || found->in_handler ||", ""),
    ];
    assert_all_noticed(&spin::definitions(), SPIN, NARGS, &mutants);
}

/// Every function of the headers is compared: a new one wants a case.
#[test]
fn no_function_is_left_out() {
    let cases = [YIELD_MATH, IPI_RECORD_WORD];
    let known: Vec<_> = cases.into_iter().flatten().map(|c| c.name).collect();
    for header in [YIELD_HEADER, IPI_HEADER] {
        for line in source::header(header).lines() {
            let Some(rest) = line.strip_prefix("static inline ") else {
                continue;
            };
            let name = rest.split('(').next().unwrap().rsplit(' ').next().unwrap();
            assert!(known.contains(&name), "{name} of {header} is not compared");
        }
    }
}

/// The kernel's own functions, and what the series adds to them. This needs the kernel's
/// source: Debian's package of it, or the tree that was made of that.
#[test]
fn fair() {
    if let Some(c) = fair_source() {
        compare_all(&c, FAIR, fair::NARGS, count());
    }
}

/// One constant or sign changed in the kernel's functions: the comparison has to notice.
#[test]
fn a_change_in_fair_is_noticed() {
    let mutants = [
        (
            "calc_delta_fair",
            "fact >>= fs;\n\t}\n\n\treturn",
            "fact >>= fs + 1;\n\t}\n\n\treturn",
        ),
        (
            "avg_vruntime",
            "runtime -= (weight - 1)",
            "runtime -= weight",
        ),
        ("entity_lag", "2*se->slice", "3*se->slice"),
        (
            "vruntime_eligible",
            "return avg >= (s64)",
            "return avg > (s64)",
        ),
        ("pick_eevdf", "curr && protect_slice(curr)", "0"),
        (
            "pick_eevdf",
            "curr && entity_before(curr, best)",
            "curr && !entity_before(best, curr)",
        ),
        (
            "update_deadline",
            "se->deadline) < 0)",
            "se->deadline) <= 0)",
        ),
        ("place_entity", "vslice /= 2", "vslice /= 3"),
        (
            "place_entity",
            "load += scale_load_down(curr->load.weight)",
            "load += 0",
        ),
        (
            "reweight_eevdf",
            "div_s64(vslice * old_weight",
            "div_s64(vslice * weight",
        ),
        ("cfs_rq_overdue", "earliest + limit", "earliest"),
        ("cfs_rq_overdue", "earliest = curr->vruntime", ""),
        ("pick_queued", "se->vruntime - slack", "se->vruntime"),
        ("next_may_run", "se->vruntime - limit", "se->vruntime"),
        ("next_may_run", "&& !curr->lends", ""),
        (
            "next_may_run",
            "time_before_eq(jiffies, cfs_rq->lent_at) ||",
            "",
        ),
        ("pass_turn", "pick_queued(cfs_rq, 0) ?:", ""),
        (
            "pass_turn",
            "curr->vruntime + loan_limit(curr)",
            "curr->vruntime",
        ),
        ("pass_turn", "cfs_rq->next && next_may_run(cfs_rq)", "0"),
        (
            "loans_see_wakeup",
            "se->lends && cfs_rq->next == pse",
            "cfs_rq->next == pse",
        ),
        (
            "loans_see_wakeup",
            "set_next(cfs_rq, pse, NEXT_WOKEN)",
            "(void)0",
        ),
        ("loans_see_wakeup", "pse->sched_delayed ||", ""),
        ("takes_turns_with", "p->se.lends && p->mm", "p->mm"),
        ("takes_turns_with", "p->mm && p->mm == curr->mm", "p->mm"),
    ];
    if let Some(c) = fair_source() {
        assert_all_noticed(&c, FAIR, fair::NARGS, &mutants);
    }
}

/// What of the kernel's source is compared; nothing, and why, if it isn't there.
fn fair_source() -> Option<String> {
    static SOURCE: OnceLock<Option<String>> = OnceLock::new();
    let extract = || match source::stock(&["kernel/sched/fair.c", "kernel/sched/core.c"]) {
        Ok(files) => {
            let fair_c = source::patched("kernel/sched/fair.c", &files[0]);
            Some(compared(&fair_c, &files[1]))
        }
        Err(why) => {
            assert!(std::env::var_os("VMFIRST_NO_SKIP").is_none(), "{why}");
            eprintln!("SKIP: {why}");
            None
        }
    };
    SOURCE.get_or_init(extract).clone()
}

fn compared(fair_c: &str, core_c: &str) -> String {
    let mut c = String::from("#include \"fair.h\"\n");
    for name in ["sched_prio_to_weight", "sched_prio_to_wmult"] {
        c += &source::array(core_c, name);
    }
    for name in fair::FUNCTIONS {
        c += &source::function(fair_c, name);
    }
    c += "#include \"fair_cases.h\"\n";
    c
}

/// The kernel's defaults are the crate's.
#[test]
fn defaults_are_the_kernels() {
    let sysfs = source::header("kernel/sched/debooster_sysfs.c");
    let start = sysfs.find("debooster_tunables debooster = {").unwrap();
    let text = &sysfs[start..start + sysfs[start..].find("};").unwrap()];
    let number = |field: &str| {
        let line = text.lines().find(|l| l.trim_start().starts_with(field));
        let value = line.map_or("0", |l| l.split_once('=').unwrap().1);
        let factor = |word: &str| match word.trim() {
            "NSEC_PER_USEC" => 1_000,
            "NSEC_PER_MSEC" => 1_000_000,
            number => number.parse::<u64>().unwrap(),
        };
        let value = value.trim().trim_end_matches(',');
        value.split('*').map(factor).product::<u64>()
    };
    // The first one of enum debooster_mode.
    assert_eq!(number(".mode"), 0);
    let header = source::header("kernel/sched/debooster.h");
    assert!(header.contains("enum debooster_mode {\n\tDEBOOSTER_LEND,"));
    let kernel = Tunables {
        mode: Mode::Lend,
        granularity_ns: number(".granularity_ns"),
        pair_window_ns: number(".pair_window_ns"),
        rate_window_ns: number(".rate_window_ns"),
    };
    assert_eq!(Tunables::default(), kernel, "change Tunables::default()");
}

/// One constant changed in the C: the comparison has to notice.
#[test]
fn a_change_in_c_is_noticed() {
    let mutants = [
        ("yield_margin", "n == 3 ? 3 : 4", "n == 3 ? 3 : 5"),
        ("yield_service", "BIT_ULL(42)", "BIT_ULL(43)"),
        ("yield_cap_halves", "n <= 12", "n <= 11"),
        ("yield_penalty", "div_u64(gap, 10)", "div_u64(gap, 11)"),
        (
            "yield_need",
            "mul_u64_u64_div_u64(need, load, load - weight) + 1",
            "mul_u64_u64_div_u64(need, load, load - weight)",
        ),
        ("yield_recent", "< (s64)window", "<= (s64)window"),
    ];
    assert_all_noticed(&source::header(YIELD_HEADER), YIELD_MATH, NARGS, &mutants);
}

/// One constant changed in the Rust: the same.
#[test]
fn a_change_in_rust_is_noticed() {
    let mutants = [
        (
            YIELD_MATH,
            "yield_cap_halves",
            "debooster.rs",
            "4..=6 => 5",
            "4..=6 => 6",
        ),
        (
            YIELD_MATH,
            "yield_service",
            "debooster.rs",
            "1 << 52",
            "1 << 40",
        ),
        (
            YIELD_MATH,
            "yield_lag",
            "weight.rs",
            "u128::from(b)) >> shift",
            "u128::from(b)) >> shift << 1",
        ),
        (
            IPI_EOI_WORD,
            "ipi_eoi_cookie",
            "ipi/eoi.rs",
            "SEQUENCE: u32 = 0x0ff0",
            "SEQUENCE: u32 = 0x1ff0",
        ),
        (
            IPI_RECORD_WORD,
            "ipi_record_pack",
            "ipi/word.rs",
            "MAX_VCPUS: u32 = 4096",
            "MAX_VCPUS: u32 = 2048",
        ),
    ];
    for (cases, name, file, from, to) in mutants {
        let worker = Worker::mutant(file, from, to, NARGS);
        assert_differs(&worker, named(cases, name), from, to);
    }
}

/// The C of each case against its Rust, on so many inputs.
fn compare_all(c: &str, cases: &[Case], nargs: usize, inputs: usize) {
    let cases: Vec<_> = cases.iter().collect();
    let worker = Worker::in_c(c, &cases, nargs);
    for case in cases {
        let difference = worker.compare(case, &mut Inputs::new(1), inputs);
        assert!(difference.is_none(), "{}: {difference:#x?}", case.name);
    }
}

/// Each of `mutants`, a case's name and what stands once in the C for what, is noticed.
fn assert_all_noticed(c: &str, cases: &[Case], nargs: usize, mutants: &[(&str, &str, &str)]) {
    for (name, from, to) in mutants {
        assert_eq!(c.matches(from).count(), 1, "{from:?} in the C");
        let case = named(cases, name);
        let worker = Worker::in_c(&c.replacen(from, to, 1), &[case], nargs);
        assert_differs(&worker, case, from, to);
    }
}

fn assert_differs(worker: &Worker, case: &Case, from: &str, to: &str) {
    let difference = worker.compare(case, &mut Inputs::new(1), MUTANT_INPUTS);
    assert!(
        difference.is_some(),
        "{}: {to:?} for {from:?} is not noticed",
        case.name
    );
}

fn named<'a>(cases: &'a [Case], name: &str) -> &'a Case {
    cases.iter().find(|case| case.name == name).unwrap()
}
