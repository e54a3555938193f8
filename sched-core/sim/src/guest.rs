//! A vCPU's guest: what it does while it has a CPU, and when it will do something that
//! others notice.
//!
//! Nothing here knows the host. [`Guest::progress`] lets time pass, [`Guest::due`] says
//! when the next thing happens, and [`Guest::happened`] what it is.

use rand_core::{RngCore, SeedableRng};
use rand_xoshiro::SplitMix64;
use smallvec::SmallVec;

/// What a vCPU is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Works; the rest of it is in [`Guest::left`].
    Run,
    /// Spins for a spinlock of its VM.
    SpinLock(u32),
    /// Spins for an rwsem of its VM.
    SpinSem(u32),
    /// Spins for answers.
    SpinAnswers,
    /// Spins for the others of its VM.
    SpinBarrier,
    /// Halted, for a mutex of its VM.
    WaitMutex(u32),
    /// Halted, for an rwsem of its VM.
    WaitSem(u32),
    /// Halted, for a timer.
    Sleep,
}

impl State {
    /// Burns CPU time for another vCPU.
    pub fn spins(self) -> bool {
        matches!(
            self,
            Self::SpinLock(_) | Self::SpinSem(_) | Self::SpinAnswers | Self::SpinBarrier
        )
    }

    /// Has nothing to do but interrupts.
    pub fn halts(self) -> bool {
        matches!(self, Self::WaitMutex(_) | Self::WaitSem(_) | Self::Sleep)
    }
}

/// A lock that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// A spinlock.
    Spin(u32),
    /// A mutex.
    Mutex(u32),
    /// An rwsem.
    Sem(u32),
}

/// What happens at the time of [`Guest::due`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// Handlers of all interrupts have run.
    Answered,
    /// The work is done.
    Done,
    /// It has spun for the window.
    SpinExit,
    /// It halts, or finds that it need not.
    Halt,
}

/// Spin exits that find nobody, one like the other, until something changes: they are
/// counted, not simulated.
#[derive(Debug, Clone, Copy)]
struct InVain {
    /// What each costs, ns.
    cost: u64,
    /// ns until one is simulated again.
    left: u64,
}

/// Tasks whose IPIs a guest has to answer.
pub type Callers = SmallVec<[u32; 4]>;

/// One vCPU's guest. In the order of how often fields are looked at: an event costs the
/// cache lines that it touches.
#[derive(Debug)]
#[repr(C)]
pub struct Guest {
    /// What it is at.
    pub state: State,
    /// ns of work until that is done, in [`State::Run`].
    pub left: u64,
    /// ns in the host, or in the guest's kernel, before the guest goes on.
    pub overhead: u64,
    /// Some of that is in the guest's kernel, wherever it goes on then.
    kernel_first: bool,
    window_left: u64,
    /// How many answers are missing.
    pub missing: u32,
    /// In kernel mode.
    pub kernel: bool,
    /// Takes no interrupts.
    pub irqs_off: bool,
    /// It halts, and has done what comes before that.
    pub idle: bool,
    irq_begun: bool,
    /// There are `callers`.
    called: bool,
    /// ns of interrupt handlers that have to run.
    pub irq_left: u64,
    in_vain: Option<InVain>,
    window: u64,
    /// ns that it spun.
    pub spin_ns: u64,
    /// Spin exits.
    pub exits: u64,
    random: SplitMix64,
    /// ns for which it is still polled before it sleeps, halted.
    pub poll_left: u64,
    /// What it holds.
    pub held: Option<Held>,
    /// Whose IPIs the handlers are, by task.
    pub callers: Callers,
    /// The step of the round.
    pub step: u32,
    /// Rounds done.
    pub rounds: u64,
}

impl Guest {
    /// A guest at the begin of a round. `window`: ns of spinning until an exit, 0 for none.
    pub fn new(seed: u64, window: u64) -> Self {
        Self {
            state: State::Run,
            left: 0,
            overhead: 0,
            irq_left: 0,
            callers: Callers::new(),
            missing: 0,
            kernel: false,
            irqs_off: false,
            held: None,
            step: 0,
            rounds: 0,
            spin_ns: 0,
            exits: 0,
            idle: false,
            irq_begun: false,
            called: false,
            window: if window == 0 { u64::MAX } else { window },
            kernel_first: false,
            window_left: 0,
            in_vain: None,
            poll_left: 0,
            random: SplitMix64::seed_from_u64(seed),
        }
    }

    /// Evenly from half to one and a half times `mean`.
    pub fn draw(&mut self, mean: u64) -> u64 {
        mean / 2 + self.below(mean + 1)
    }

    /// Evenly from 0 to `bound` - 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.random.next_u64()) * u128::from(bound);
        (wide >> 64) as u64
    }

    /// Works for `ns`.
    pub fn run(&mut self, ns: u64, kernel: bool) {
        self.state = State::Run;
        self.left = ns;
        self.kernel = kernel;
    }

    /// Does something in its kernel for `ns` before it goes on.
    pub fn kernel_first(&mut self, ns: u64) {
        self.overhead += ns;
        self.kernel_first |= ns > 0;
    }

    /// In kernel mode, as the host sees it.
    pub fn in_kernel(&self) -> bool {
        self.kernel || self.irq_begun || self.kernel_first
    }

    /// Waits in `state`.
    pub fn wait(&mut self, state: State) {
        self.state = state;
        self.kernel = true;
        self.idle = false;
        self.window_left = self.window;
        self.in_vain = None;
    }

    /// Another IPI of `caller`, whose handler takes `ns`.
    pub fn interrupt(&mut self, caller: u32, ns: u64) {
        self.irq_left += ns;
        self.called = true;
        self.callers.push(caller);
    }

    /// It is in a handler.
    pub fn handling(&self) -> bool {
        self.irq_begun
    }

    /// All handlers have run: whose IPIs they were. To be given back empty, for its memory.
    pub fn answered(&mut self) -> Callers {
        (self.irq_begun, self.called) = (false, false);
        std::mem::take(&mut self.callers)
    }

    /// Handlers that it may run now.
    fn interrupted(&self) -> bool {
        self.called && !self.irqs_off
    }

    /// ns on a CPU until something happens; `None`: only others can change that.
    pub fn due(&self) -> Option<u64> {
        let here = if self.interrupted() {
            self.irq_left
        } else {
            match self.state {
                State::Run => self.left,
                state if state.halts() => self.poll_left,
                _ if self.window == u64::MAX => return None,
                _ if self.in_vain.is_some() => self.in_vain.map_or(0, |v| v.left),
                _ => self.window_left,
            }
        };
        Some(self.overhead + here)
    }

    /// It had a CPU for `ns`.
    pub fn progress(&mut self, ns: u64) {
        let mut ns = take(&mut self.overhead, ns);
        self.kernel_first &= self.overhead > 0;
        if self.interrupted() {
            self.irq_begun |= ns > 0;
            ns = take(&mut self.irq_left, ns);
        }
        if self.state == State::Run {
            take(&mut self.left, ns);
        } else if self.state.spins() {
            self.spin(ns);
        } else {
            take(&mut self.poll_left, ns);
        }
    }

    fn spin(&mut self, ns: u64) {
        let Some(InVain { cost, left }) = self.in_vain else {
            self.spin_ns += ns;
            if self.window != u64::MAX {
                take(&mut self.window_left, ns);
            }
            return;
        };
        self.in_vain = Some(InVain {
            cost,
            left: left - ns.min(left),
        });
        let Some(after) = ns.checked_sub(self.window_left) else {
            self.window_left -= ns;
            self.spin_ns += ns;
            return;
        };
        // An exit, then whole rounds of exit and window, then a part of one.
        let (rounds, part) = (after / (cost + self.window), after % (cost + self.window));
        let spun = part.saturating_sub(cost);
        self.exits += 1 + rounds;
        self.spin_ns += self.window_left + rounds * self.window + spun;
        self.overhead += cost.saturating_sub(part);
        self.window_left = self.window - spun;
    }

    /// Nobody was found, and nobody will be for `left` ns unless something changes.
    pub fn spin_in_vain(&mut self, left: u64) {
        let cost = self.overhead;
        self.in_vain = Some(InVain { cost, left });
    }

    /// Something has changed.
    pub fn spin_in_hope(&mut self) {
        self.in_vain = None;
    }

    /// What happens now, if anything does.
    pub fn happened(&self) -> Option<Happening> {
        if self.due() != Some(0) {
            return None;
        }
        Some(match self.state {
            _ if self.interrupted() => Happening::Answered,
            State::Run => Happening::Done,
            state if state.halts() => Happening::Halt,
            _ => Happening::SpinExit,
        })
    }

    /// Back in the guest after a spin exit of `cost` ns.
    pub fn spin_again(&mut self, cost: u64) {
        self.exits += 1;
        self.in_vain = None;
        self.window_left = self.window;
        self.overhead += cost;
    }
}

/// Takes up to `ns` from `from`; returns the rest of `ns`.
fn take(from: &mut u64, ns: u64) -> u64 {
    let taken = ns.min(*from);
    *from -= taken;
    ns - taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_comes_first_then_interrupts_then_work() {
        let mut guest = Guest::new(1, 0);
        guest.run(100, false);
        guest.overhead = 10;
        guest.interrupt(7, 20);
        assert_eq!(guest.due(), Some(30));
        guest.progress(30);
        assert_eq!(guest.happened(), Some(Happening::Answered));
        guest.answered();
        assert_eq!(guest.due(), Some(100));
        guest.irqs_off = true;
        guest.interrupt(7, 20);
        guest.progress(100);
        assert_eq!(guest.happened(), Some(Happening::Done));
    }

    /// Who sends an interrupt as the last thing that it does in its kernel is not in user mode
    /// before that is sent.
    #[test]
    fn what_is_done_in_the_kernel_first_is_kernel_mode() {
        let mut guest = Guest::new(1, 0);
        guest.run(100, false);
        assert!(!guest.in_kernel());
        guest.overhead = 10;
        assert!(!guest.in_kernel(), "the host's");
        guest.kernel_first(20);
        guest.progress(29);
        assert!(guest.in_kernel());
        guest.progress(1);
        assert!(!guest.in_kernel());
        assert_eq!(guest.due(), Some(100));
    }

    #[test]
    fn a_spinner_exits_after_its_window() {
        let mut guest = Guest::new(1, 50);
        guest.wait(State::SpinAnswers);
        guest.progress(49);
        assert_eq!(guest.happened(), None);
        guest.progress(1);
        assert_eq!(guest.happened(), Some(Happening::SpinExit));
        guest.spin_again(5);
        assert_eq!((guest.due(), guest.spin_ns), (Some(55), 50));
    }

    #[test]
    fn exits_in_vain_are_counted_as_if_they_had_been_simulated() {
        for ns in [0, 1, 49, 50, 51, 55, 104, 105, 106, 1_000, 1_027] {
            let (mut one, mut all) = (Guest::new(1, 50), Guest::new(1, 50));
            for guest in [&mut one, &mut all] {
                guest.wait(State::SpinAnswers);
                guest.spin_again(5);
            }
            one.spin_in_vain(10_000);
            one.progress(ns);
            for _ in 0..ns {
                all.progress(1);
                if all.happened() == Some(Happening::SpinExit) {
                    all.spin_again(5);
                }
            }
            one.spin_in_hope();
            // An exit at this very moment is still to come or just over.
            if one.exits == all.exits {
                assert_eq!((one.due(), one.spin_ns), (all.due(), all.spin_ns), "{ns}");
            }
            assert!(one.exits.abs_diff(all.exits) <= 1, "{ns}");
        }
    }

    #[test]
    fn draws_stay_around_their_mean() {
        let mut guest = Guest::new(3, 0);
        let draws: Vec<u64> = (0..1000).map(|_| guest.draw(1000)).collect();
        assert!(draws.iter().all(|d| (500..=1500).contains(d)));
        let sum: u64 = draws.iter().sum();
        assert!((950_000..1_050_000).contains(&sum), "{sum}");
    }
}
