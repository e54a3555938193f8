//! Inputs by a seeded generator: everything that a type holds, edges often.

/// The range of one input.
#[derive(Clone, Copy)]
pub enum Arg {
    /// All of u64, also taken for s64.
    Any,
    /// All of u32.
    U32,
    /// All of u8.
    U8,
    /// 0 or 1.
    Flag,
    /// A word of a record, valid and open as often as not, and above it any receiver.
    Burst,
    /// A number of tasks: mostly up to 20.
    Count,
    /// A weight as the kernel has it, 2 to 2^20.
    Weight,
    /// 0, 1 for nobody else, or 3 and more: one more than the weight of others.
    Queue,
    /// Nice value (0 to 39), SCHED_IDLE (40), or the next input.
    LoadPick,
    /// A load, scaled up, up to 2^28; 0 too.
    Load,
    /// The same, never 0.
    SomeLoad,
    /// Any load that fits.
    WideLoad,
    /// ns of service or of virtual time: up to 2^36.
    Span,
    /// The same with a sign.
    Signed,
    /// A virtual time: near the wrap, near 0, or anywhere.
    Time,
    /// The last [`Arg::Time`] and up to 2^36 more or less.
    Near,
    /// Who is in a queue: see tests/c/fair_cases.h.
    World,
    /// The same, with a current entity.
    Running,
}

const WEIGHTS: [u64; 8] = [2, 3, 15, 1024, 9548, 88761, 1 << 18, 1 << 20];

/// A generator of inputs (splitmix64).
pub struct Inputs {
    state: u64,
    time: u64,
}

impl Inputs {
    /// The same seed gives the same inputs.
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed,
            time: 0,
        }
    }

    /// Fills `to` with one value an argument.
    pub fn fill(&mut self, args: &[Arg], to: &mut [u64]) {
        for (arg, to) in args.iter().zip(to) {
            *to = self.value(*arg);
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn value(&mut self, arg: Arg) -> u64 {
        let r = self.next();
        match arg {
            Arg::Any => self.wide(),
            Arg::U32 => self.wide() & u64::from(u32::MAX),
            Arg::U8 => r & 0xff,
            Arg::Flag => r & 1,
            // The vector is one of four.
            Arg::Burst => r & 0xffff_ffff_f030_3fff,
            Arg::Count if r & 7 == 0 => self.wide() & u64::from(u32::MAX),
            Arg::Count => r >> 8 & 0x1f,
            Arg::Weight => self.weight(1 << 20),
            Arg::Queue => match r & 7 {
                0 => 0,
                1 => 1,
                _ => self.weight(1 << 26) + 1,
            },
            Arg::LoadPick => r % 48,
            Arg::Load if r & 31 == 0 => r >> 8 & 3,
            Arg::Load | Arg::SomeLoad => self.weight(1 << 18) << 10 | self.low_bits(),
            Arg::WideLoad => self.wide() & ((1 << 42) - 1),
            Arg::Span => self.wide() & ((1 << 36) - 1),
            Arg::Signed => (self.wide() as i64 >> 27) as u64,
            Arg::Time => {
                self.time = match r & 3 {
                    0 => r >> 40,
                    1 => 0u64.wrapping_sub(r >> 40),
                    _ => self.wide(),
                };
                self.time
            }
            Arg::Near => {
                let off = (self.wide() as i64 >> 27) as u64;
                self.time.wrapping_add(off)
            }
            Arg::World => r & 0xf,
            Arg::Running => r & 0xf | 4,
        }
    }

    /// Any size, edges often.
    fn wide(&mut self) -> u64 {
        let (r, value) = (self.next(), self.next());
        let small = r >> 16 & 3;
        match r & 15 {
            0 => small.wrapping_sub(1),
            1 => (1u64 << (r >> 32 & 63)).wrapping_sub(small).wrapping_add(1),
            2 => (i64::MAX as u64).wrapping_add(small),
            3 => WEIGHTS[(r >> 32 & 7) as usize],
            _ => value >> (r >> 32 & 63),
        }
    }

    fn weight(&mut self, most: u64) -> u64 {
        let r = self.next();
        match r & 3 {
            0 => WEIGHTS[(r >> 8 & 7) as usize].min(most),
            _ => 2 + (self.next() >> (r >> 8 & 63)) % (most - 1),
        }
    }

    /// What a load has beyond its weight: mostly nothing.
    fn low_bits(&mut self) -> u64 {
        let r = self.next();
        match r & 3 {
            0 => r >> 8 & 0x3ff,
            _ => 0,
        }
    }
}
