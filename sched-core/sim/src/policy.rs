//! What the host's kernel does with a spinning vCPU: the switches of a variant.

use serde::Deserialize;

use crate::scenario::Bounded;

/// What a yield on one runqueue does to vruntimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// 6.12.117 as it is: a buddy, and the yielder's slice is forfeited on its own level.
    Off,
    /// The yielder pays, to everybody.
    Penalty,
    /// The target gets, from everybody.
    Credit,
    /// The yielder pays the target.
    Transfer,
    /// Comparison: penalty at the common level, limited per runqueue.
    V2,
    /// Comparison: bounded credit along the target's ancestors, limited per runqueue.
    V3,
    /// Comparison: a forfeit on each of the yielder's levels.
    Hier,
}

/// Whom a spinning vCPU yields to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Search {
    /// The round-robin scan of `kvm_vcpu_on_spin()`.
    Stock,
    /// The scan, where a vCPU that any IPI waits for counts as in the kernel.
    Pending,
    /// First the vCPUs that owe the spinner an answer, then the rest of the cascade.
    Cascade,
}

/// All switches of a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// On one runqueue.
    pub mode: Mode,
    /// Whom.
    pub search: Search,
    /// The target on another runqueue may run ahead of its turn.
    pub advance: bool,
    /// Yielder and target on another runqueue exchange their places.
    pub handoff: bool,
    /// The target joins at the yielder's very vruntime, instead of by its lag while the
    /// yielder is still queued, which moves everybody else: docs/simulator.md.
    pub exact: bool,
    /// A yield back within this is damped, ns.
    pub pair_window_ns: u64,
    /// A yielder settles at most once in this, ns, where the mode is limited.
    pub rate_window_ns: u64,
    /// How long a sent IPI is thought to be under way, ns.
    pub ipi_window_ns: u64,
    /// Of what margins and penalties are fractions, ns; 0 is the base slice.
    pub granularity_ns: u64,
}

/// A variant that a scenario defines: another one with some switches changed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// What it starts from.
    pub base: String,
    mode: Option<Mode>,
    search: Option<Search>,
    advance: Option<bool>,
    handoff: Option<bool>,
    exact: Option<bool>,
    pair_window_ns: Option<Bounded<0, 1_000_000_000>>,
    rate_window_ns: Option<Bounded<0, 1_000_000_000>>,
    ipi_window_ns: Option<Bounded<0, 60_000_000_000>>,
    granularity_ns: Option<Bounded<0, 100_000_000>>,
}

impl Policy {
    /// The names that [`Policy::named`] knows by itself.
    pub const NAMES: [&str; 12] = [
        "stock",
        "receiver-first",
        "penalty",
        "credit",
        "transfer",
        "advance",
        "handoff",
        "vmfirst",
        "exact-handoff",
        "v2",
        "v3",
        "hier",
    ];

    /// The policy called `name`, also one of `own`.
    pub fn named(name: &str, own: &[Variant]) -> Option<Self> {
        match own.iter().position(|v| v.name == name) {
            // Only those above it: no circles.
            Some(at) => Some(own[at].apply(Self::named(&own[at].base, &own[..at])?)),
            None => Self::builtin(name),
        }
    }

    fn builtin(name: &str) -> Option<Self> {
        let stock = Self {
            mode: Mode::Off,
            search: Search::Stock,
            advance: false,
            handoff: false,
            exact: false,
            pair_window_ns: 600_000,
            rate_window_ns: 6_000_000,
            ipi_window_ns: 50_000_000,
            granularity_ns: 0,
        };
        let first = Self {
            search: Search::Cascade,
            ..stock.clone()
        };
        Some(match name {
            "stock" => stock,
            "receiver-first" => first,
            "penalty" => Self {
                mode: Mode::Penalty,
                ..first
            },
            "credit" => Self {
                mode: Mode::Credit,
                ..first
            },
            "transfer" => Self {
                mode: Mode::Transfer,
                ..first
            },
            "advance" => Self {
                advance: true,
                ..first
            },
            "handoff" => Self {
                handoff: true,
                ..first
            },
            "exact-handoff" => Self {
                handoff: true,
                exact: true,
                ..first
            },
            "vmfirst" => Self {
                mode: Mode::Transfer,
                advance: true,
                handoff: true,
                exact: true,
                ..first
            },
            "v2" => Self {
                mode: Mode::V2,
                search: Search::Pending,
                ..stock
            },
            "v3" => Self {
                mode: Mode::V3,
                search: Search::Pending,
                ..stock
            },
            "hier" => Self {
                mode: Mode::Hier,
                ..stock
            },
            _ => return None,
        })
    }
}

impl Variant {
    fn apply(&self, base: Policy) -> Policy {
        Policy {
            mode: self.mode.unwrap_or(base.mode),
            search: self.search.unwrap_or(base.search),
            advance: self.advance.unwrap_or(base.advance),
            handoff: self.handoff.unwrap_or(base.handoff),
            exact: self.exact.unwrap_or(base.exact),
            pair_window_ns: self
                .pair_window_ns
                .map_or(base.pair_window_ns, Bounded::get),
            rate_window_ns: self
                .rate_window_ns
                .map_or(base.rate_window_ns, Bounded::get),
            ipi_window_ns: self.ipi_window_ns.map_or(base.ipi_window_ns, Bounded::get),
            granularity_ns: self
                .granularity_ns
                .map_or(base.granularity_ns, Bounded::get),
        }
    }
}
