//! KVM's functions of a spin exit beside [`sched_core::ipi`] and [`sched_core::cascade`]:
//! vCPUs made of numbers, as tests/c/spin_cases.h makes them.

use sched_core::cascade::{self, Reason, Vcpu};
use sched_core::ipi::{Awaited, Receivers, Record};
use sched_core::scan::YieldTo;

use super::cases::Case;
use super::inputs::Arg;
use super::source;

/// The kernel's own functions, on what tests/c/spin.h has of their structures.
pub fn definitions() -> String {
    definitions_with("", "")
}

/// The same with all of `kvm_vcpu_on_spin`, which is a function of the stock kernel: from
/// its `virt/kvm/kvm_main.c` with the series.
pub fn definitions_with_scan(kvm_main: &str) -> String {
    let of_stock = [
        "kvm_vcpu_eligible_for_directed_yield",
        "kvm_vcpu_yield_reason",
    ];
    let before: String = of_stock
        .map(|name| source::function(kvm_main, name))
        .concat();
    let after = source::function(kvm_main, "kvm_vcpu_on_spin");
    definitions_with(&before, &format!("{after}#define SPIN_EXIT\n"))
}

fn definitions_with(before: &str, after: &str) -> String {
    let word = source::header("arch/x86/kvm/ipi_record_word.h");
    let eoi = source::header("arch/x86/kvm/ipi_eoi_word.h");
    let header = source::header("arch/x86/kvm/ipi_record.h");
    let file = source::header("arch/x86/kvm/ipi_record.c");
    let added = source::added("virt/kvm/kvm_main.c");
    let window = header
        .lines()
        .find(|line| line.starts_with("#define IPI_RECORD_WINDOW"))
        .unwrap();
    let of = |text: &str, names: &[&str]| -> String {
        names
            .iter()
            .map(|name| source::function(text, name))
            .collect()
    };
    [
        "#include \"spin.h\"\n",
        &word,
        &eoi,
        window,
        "\n",
        &of(&file, &["kvm_ipi_record_add"]),
        &of(
            &header,
            &["kvm_ipi_eoi_ask", "kvm_ipi_record", "kvm_ipi_record_clear"],
        ),
        &of(&file, FUNCTIONS),
        before,
        &of(&added, &["kvm_vcpu_yield_to_receiver"]),
        after,
        "#include \"spin_cases.h\"\n",
    ]
    .concat()
}

/// Functions of ipi_record.c, in the order in which they compile.
const FUNCTIONS: &[&str] = &[
    "kvm_ipi_pir_test",
    "ipi_record_reg_test",
    "ipi_record_pending",
    "ipi_record_acked",
    "ipi_record_see",
    "ipi_record_longest",
    "ipi_record_ask",
    "ipi_record_ask_all",
    "ipi_record_owed",
    "kvm_arch_dy_awaited",
    "kvm_arch_dy_receivers",
];

/// What needs no kernel source.
pub const SPIN: &[Case] = &[
    Case {
        name: "records",
        args: &[Arg::Any],
        c: "play(a[0], look)",
        rust: |a| World::play(a[0], World::look),
    },
    Case {
        name: "search",
        args: &[Arg::Any],
        c: "play(a[0], search)",
        rust: |a| World::play(a[0], World::search),
    },
];

/// All of a spin exit.
pub const SPIN_EXIT: &[Case] = &[Case {
    name: "spin_exit",
    args: &[Arg::Any],
    c: "play(a[0], spin_exit)",
    rust: |a| World::play(a[0], World::spin_exit),
}];

const VECTORS: [u8; 4] = [0xfb, 0xfd, 0x31, 0xfb];
const MOST_VCPUS: u64 = 80;
/// 50 ms in jiffies at 250 Hz.
const WINDOW: u32 = 13;

/// A VM, one of whose vCPUs sends and spins.
struct World {
    state: u64,
    outcome: u64,
    vcpus: Vec<Vcpu>,
    record: Record<2>,
    me: usize,
    protected: bool,
    jiffies: u32,
    last_boosted: u32,
}

impl World {
    fn play(seed: u64, spin: fn(&mut Self, bool)) -> u64 {
        let mut world = Self::new(seed);
        for _ in 0..48 {
            world.step(spin);
            world.show();
        }
        world.outcome
    }

    fn new(seed: u64) -> Self {
        let mut world = Self {
            state: seed,
            outcome: 0,
            vcpus: Vec::new(),
            record: Record::default(),
            me: 0,
            protected: false,
            jiffies: 0,
            last_boosted: 0,
        };
        let r = world.next();
        let n = 2 + r % (MOST_VCPUS - 1);
        let running = Vcpu {
            wants_to_run: true,
            ..Vcpu::default()
        };
        world.vcpus = vec![running; n as usize];
        world.last_boosted = ((r >> 16) % n) as u32;
        world.jiffies = ((r >> 8 & 0x3f) as u32).wrapping_sub(32);
        world.me = ((r >> 32) % n) as usize;
        world.protected = r >> 63 == 1;
        world
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn come_out(&mut self, value: u64) {
        self.outcome = (self.outcome ^ value).wrapping_mul(0x100_0000_01b3);
    }

    fn step(&mut self, spin: fn(&mut Self, bool)) {
        let (r, n) = (self.next(), self.vcpus.len() as u64);
        let idx = ((r >> 8) % n) as usize;
        let vector = VECTORS[(r >> 16 & 3) as usize];
        match r & 7 {
            0 => {
                // A level-triggered one is not remembered.
                if r >> 20 & 15 != 0 {
                    self.send(idx, vector);
                }
                self.post(idx, vector, r >> 24);
            }
            1 => {
                for i in 0..r >> 20 & 31 {
                    let idx = (((r >> 8) + i) % n) as usize;
                    self.send(idx, vector);
                    self.post(idx, vector, r >> 32 >> (i & 7));
                }
            }
            2 => self.jiffies = self.jiffies.wrapping_add((r >> 20 & 7) as u32),
            3 => self.post(idx, vector, r >> 24),
            4 => self.change(idx, r >> 24),
            5 if r >> 20 & 7 == 0 => self.record.clear(),
            5 => {
                for idx in 0..self.vcpus.len() {
                    let bits = self.next();
                    self.change(idx, bits);
                }
            }
            _ => spin(self, r >> 20 & 7 != 0),
        }
    }

    fn send(&mut self, idx: usize, vector: u8) {
        if idx != self.me {
            self.record.sent(idx as u32, vector, self.jiffies, WINDOW);
        }
    }

    fn post(&mut self, idx: usize, vector: u8, bits: u64) {
        let vcpu = &mut self.vcpus[idx];
        for (place, regs) in [&mut vcpu.irr, &mut vcpu.isr, &mut vcpu.pir]
            .into_iter()
            .enumerate()
        {
            let reg = &mut regs[usize::from(vector / 32)];
            *reg = *reg & !(1 << (vector % 32)) | ((bits >> place & 1) as u32) << (vector % 32);
        }
    }

    fn change(&mut self, idx: usize, r: u64) {
        let vcpu = &mut self.vcpus[idx];
        vcpu.ready = r & 1 != 0;
        vcpu.preempted = r & 2 != 0;
        vcpu.irqs_off = r & 4 != 0;
        vcpu.spins = r & 8 != 0;
        vcpu.wants_to_run = r & 0x30 != 0;
        vcpu.scheduled_out = r & 0x40 != 0;
        vcpu.apicv = r & 0x80 != 0;
        vcpu.in_kernel = r & 0x100 != 0;
        vcpu.blocking = r & 0x600 == 0x600;
        vcpu.hardware_irq = r & 0x1800 == 0x1800;
        vcpu.off_since = r >> 20 & 3;
    }

    fn show(&mut self) {
        self.come_out(self.record.word().into());
        for idx in 0..self.vcpus.len() as u32 {
            let kept = self.record.remembers(idx);
            self.come_out(kept.into());
        }
    }

    fn receivers(&mut self, kernel_mode: bool) -> Receivers {
        if self.record.awaited(kernel_mode || self.protected) == Awaited::Nobody {
            return Receivers::default();
        }
        let vcpus = &self.vcpus;
        let look = |idx: u32| vcpus.get(idx as usize);
        self.record.receivers(self.jiffies, WINDOW, look)
    }

    fn look(&mut self, kernel_mode: bool) {
        let found = self.receivers(kernel_mode);
        let number = |idx: Option<u32>| idx.map_or(0, |idx| u64::from(idx) + 1);
        self.come_out(number(found.pending));
        self.come_out(number(found.in_handler));
        self.come_out(found.running.into());
    }

    /// What the scheduler makes of a yield: two bits a target.
    fn answer(scheduler: u64, idx: u32) -> YieldTo {
        match scheduler >> (idx % 32 * 2) & 3 {
            0 => YieldTo::Taken,
            1 => YieldTo::NotTaken,
            _ => YieldTo::Failed,
        }
    }

    fn search(&mut self, kernel_mode: bool) {
        let scheduler = self.next();
        let found = self.receivers(kernel_mode);
        let mut asked = Vec::new();
        let outcome = cascade::to_receiver(found, &mut |idx, reason| {
            asked.push((idx, reason));
            Self::answer(scheduler, idx)
        });
        self.asked(&asked);
        self.come_out(outcome.is_some().into());
    }

    fn spin_exit(&mut self, kernel_mode: bool) {
        let scheduler = self.next();
        let me = self.me as u32;
        let awaited = self.record.awaited(kernel_mode || self.protected);
        let (record, now) = (&mut self.record, self.jiffies);
        let receivers =
            |vcpus: &[Vcpu]| record.receivers(now, WINDOW, |idx| vcpus.get(idx as usize));
        let mut asked = Vec::new();
        let (vcpus, last) = (&mut self.vcpus, &mut self.last_boosted);
        let attempt = |idx, reason| {
            asked.push((idx, reason));
            Self::answer(scheduler, idx)
        };
        cascade::cascade(me, awaited, receivers, kernel_mode, vcpus, last, attempt);
        self.asked(&asked);
        self.come_out(self.last_boosted.into());
        // As kvm_vcpu_on_spin() leaves the spinner.
        let me = self.me;
        self.vcpus[me].spins = false;
        for idx in (0..self.vcpus.len()).filter(|&idx| idx != me) {
            let eligible = self.vcpus[idx].dy_eligible;
            self.come_out(eligible.into());
        }
    }

    fn asked(&mut self, asked: &[(u32, Reason)]) {
        for &(idx, reason) in asked {
            self.come_out(u64::from(idx) * 8 + reason as u64);
        }
    }
}
