//! What a yield on one runqueue costs whom: modes, bounds, damping and rate.

use crate::debooster;
use crate::weight::LoadWeight;

/// How a yielder and its target settle (`/sys/kernel/directed_yield/mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Only Y pays: V moves ahead, all others of the queue gain.
    Penalty,
    /// Only T gains: V moves back, all others of the queue pay.
    Credit,
    /// Y pays to T, nobody else gains or pays.
    Transfer,
    /// No service changes hands: T runs ahead, and pays by that itself
    /// ([`debooster::loan`]).
    Lend,
}

/// The files of `/sys/kernel/directed_yield`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunables {
    /// How a pair on one runqueue settles.
    pub mode: Mode,
    /// What margins and penalties are fractions and multiples of: 100,000 to 100,000,000,
    /// or 0 for the base slice.
    pub granularity_ns: u64,
    /// A yield back to who gave less than this ago is damped: up to 10^9, 0 for never.
    pub pair_window_ns: u64,
    /// In the modes penalty and credit a task settles once in this time: up to 10^9, 0 for
    /// no limit. Transfer needs none: debt bounds it.
    pub rate_window_ns: u64,
}

impl Default for Tunables {
    /// The kernel's defaults (`debooster_sysfs.c`).
    fn default() -> Self {
        Self {
            mode: Mode::Lend,
            granularity_ns: 0,
            pair_window_ns: 600_000,
            rate_window_ns: 6_000_000,
        }
    }
}

impl Tunables {
    /// Would sysfs take these values? If not, which one it refuses (EINVAL).
    pub fn check(&self) -> Result<(), &'static str> {
        let granularity = 100_000..=100_000_000;
        if self.granularity_ns != 0 && !granularity.contains(&self.granularity_ns) {
            return Err("granularity_ns is 0 or from 100000 to 100000000");
        }
        if self.pair_window_ns > 1_000_000_000 {
            return Err("pair_window_ns is at most 1000000000");
        }
        if self.rate_window_ns > 1_000_000_000 {
            return Err("rate_window_ns is at most 1000000000");
        }
        Ok(())
    }
}

/// What the host is like, ns of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// A scheduler tick, 10^9 / HZ.
    pub tick: u64,
    /// `base_slice_ns`: 700,000 * (1 + log2 of CPUs, at most 8 of them).
    pub base_slice: u64,
}

/// One level of a task's path: its entity there, and the queue that it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// V - v of the entity, virtual ns, not cut: [`debooster::lag`] limits it.
    pub vlag: i64,
    /// The entity's weight.
    pub load: LoadWeight,
    /// The entity's slice, ns of service.
    pub slice: u64,
    /// W of the queue, the entity and the current one included.
    pub queue_weight: u64,
    /// Nobody else is queued: the level has nothing to settle.
    pub alone: bool,
}

impl Level {
    fn lag(&self) -> i64 {
        debooster::lag(self.vlag, self.load.weight())
    }

    fn may_charge(&self, amount: u64, tick: u64) -> bool {
        let limit = debooster::limit(self.slice, tick);
        self.alone || debooster::may_charge(self.lag(), amount, limit)
    }

    fn may_refund(&self, amount: u64, tick: u64) -> bool {
        let limit = debooster::limit(self.slice.saturating_mul(2), tick);
        self.alone || debooster::may_refund(self.lag(), amount, limit)
    }

    /// Service that it lacks to be eligible; `payer`: somebody of this queue pays.
    fn need(&self, payer: bool) -> u64 {
        let load = match payer {
            true => 0,
            false => self.queue_weight,
        };
        match self.alone {
            true => 0,
            false => debooster::need(self.vlag, self.load.weight(), load),
        }
    }
}

/// A yield of Y to T on one runqueue, after what has been run is charged.
///
/// The paths go from the task's own entity up to the LCA. Either is empty if the two do not
/// compete: one entity is the other's ancestor, Y's is not current or has left, T's has
/// left or sleeps, or it or a group that it is in is SCHED_IDLE.
#[derive(Debug, Clone, Copy)]
pub struct Yield<'a> {
    /// Y's path.
    pub from: &'a [Level],
    /// T's path.
    pub to: &'a [Level],
    /// v_T - v_Y on the LCA, virtual ns.
    pub gap: i64,
    /// Runnable tasks below the LCA, Y and T among them, no delayed ones (`h_nr_runnable`).
    pub n: u32,
    /// The runqueue's clock, ns.
    pub now: u64,
}

/// What a task remembers from yield to yield (`struct sched_yield_state`). `gave_to` is
/// whatever tells tasks apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskState {
    /// Whom it last settled with, and when (clock, ns).
    pub gave: Option<(u64, u64)>,
    /// When it last settled in a mode that is limited (clock, ns).
    pub limited_at: Option<u64>,
}

impl TaskState {
    /// Did this task, the target, give to `yielder` a moment ago (`yield_goes_back`)?
    /// Then the two only take turns.
    pub fn reversed(&self, yielder: u64, now: u64, window: u64) -> bool {
        self.gave
            .is_some_and(|(to, at)| to == yielder && debooster::recent(now, at, window))
    }

    /// One settlement in a window for each yielding task (`yield_rate_allows`). Uses it up.
    fn rate_allows(&mut self, now: u64, window: u64) -> bool {
        let recent = |at| window > 0 && debooster::recent(now, at, window);
        if self.limited_at.is_some_and(recent) {
            return false;
        }
        self.limited_at = Some(now);
        true
    }
}

/// What is to be applied on the levels that are not `alone`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// T is eligible on all its levels: the buddy hint will do.
    Eligible,
    /// Y pays `amount` ns of service on each level of its path, T gets it on each of its.
    Transfer {
        /// L: the need and the margin.
        amount: u64,
    },
    /// T gets `amount` ns of service on each level of its path.
    Credit {
        /// The need and the margin.
        amount: u64,
    },
    /// Y pays on the LCA only.
    Penalty {
        /// Virtual ns.
        virtual_ns: u64,
    },
}

/// Why nothing was settled: the yield is then a stock one, with its forfeit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The mode is lend.
    Mode,
    /// The two do not compete on one level (`refused_level`).
    Level,
    /// Y would owe more than its slice or a tick on some level (`refused_debt`). This is the
    /// bound on starvation: others catch up before Y may give again.
    Debt,
    /// T would be owed more than two slices or a tick on some level (`refused_bound`).
    Bound,
    /// Too soon after Y's last one (`refused_rate`).
    Rate,
}

/// Settles a yield: who is charged what (`yield_on_rq`, `yield_settle`). Who has settled, or
/// found T eligible, keeps the rest of its slice; a refused yielder forfeits it as stock.
///
/// `damped`: T gave to Y a moment ago, see [`TaskState::reversed`]. `target`: T's name in
/// `state`, which is Y's and is changed only if this settles.
///
/// L = the largest need of T's levels + [`debooster::margin`]. Bounds: with limit =
/// max(slice, tick), Y's lag stays >= -limit, T's <= max(2 * slice, tick), as service.
pub fn settle(
    y: &Yield,
    damped: bool,
    target: u64,
    state: &mut TaskState,
    tunables: &Tunables,
    host: &Host,
) -> Result<Settlement, Refusal> {
    let (Some(from), Some(to)) = (y.from.last(), y.to.last()) else {
        return Err(Refusal::Level);
    };
    let gran = match tunables.granularity_ns {
        0 => host.base_slice,
        gran => gran,
    };
    let need = total_need(y.to);
    let amount = need + debooster::margin(y.n, gran, to.slice, damped);
    let settlement = match tunables.mode {
        Mode::Lend => return Err(Refusal::Mode),
        Mode::Penalty => Settlement::Penalty {
            virtual_ns: debooster::penalty(from.load.calc_delta_fair(gran), y.gap, y.n, damped),
        },
        _ if need == 0 => Settlement::Eligible,
        Mode::Credit => Settlement::Credit { amount },
        Mode::Transfer => Settlement::Transfer { amount },
    };
    check_bounds(y, settlement, host.tick)?;
    check_rate(settlement, state, y.now, tunables.rate_window_ns)?;
    state.gave = Some((target, y.now));
    Ok(settlement)
}

/// What T lacks to be eligible on all its levels (`yield_pair_need`). On the LCA Y pays, so
/// V stays there; below, the refund moves V.
fn total_need(to: &[Level]) -> u64 {
    let Some((lca, below)) = to.split_last() else {
        return 0;
    };
    below
        .iter()
        .map(|level| level.need(false))
        .fold(lca.need(true), u64::max)
}

fn check_bounds(y: &Yield, settlement: Settlement, tick: u64) -> Result<(), Refusal> {
    let may_charge = |amount| y.from.iter().all(|l| l.may_charge(amount, tick));
    let may_refund = |amount| y.to.iter().all(|l| l.may_refund(amount, tick));
    match settlement {
        Settlement::Transfer { amount } if !may_charge(amount) => Err(Refusal::Debt),
        Settlement::Transfer { amount } | Settlement::Credit { amount } if !may_refund(amount) => {
            Err(Refusal::Bound)
        }
        _ => Ok(()),
    }
}

/// The last check, so that no hopeless yield uses the window up.
fn check_rate(
    settlement: Settlement,
    state: &mut TaskState,
    now: u64,
    window: u64,
) -> Result<(), Refusal> {
    match settlement {
        Settlement::Credit { .. } | Settlement::Penalty { .. } => state
            .rate_allows(now, window)
            .then_some(())
            .ok_or(Refusal::Rate),
        Settlement::Eligible | Settlement::Transfer { .. } => Ok(()),
    }
}
