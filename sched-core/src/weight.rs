//! Weights: how fast an entity's virtual time runs.
//!
//! An entity of weight w that runs for s ns gets s * 1024 / w ns older in virtual time,
//! so an entity of twice the weight may run twice as long for the same virtual time. The
//! kernel does not divide: it multiplies by a rounded inverse, and so do we.

/// The weight of nice 0 (`NICE_0_LOAD` scaled down).
pub const NICE_0_WEIGHT: u32 = 1024;

/// The load of nice 0: 64-bit kernels keep weights with 10 more bits (`NICE_0_LOAD`).
pub const NICE_0_LOAD: u64 = 1 << 20;

/// The weight of SCHED_IDLE (`WEIGHT_IDLEPRIO`).
pub const IDLE_WEIGHT: u32 = 3;

/// The largest weight of a cgroup: cpu.shares 2^18 (`MAX_SHARES`).
pub const MAX_SHARES: u32 = 1 << 18;

const IDLE_INVERSE: u32 = 1_431_655_765;
const INVERSE_SHIFT: u32 = 32;
const SCALE_SHIFT: u32 = 10;

/// Weights of nice -20 to 19 (`sched_prio_to_weight`): a step is about 1.25, 10 % of CPU.
pub const NICE_TO_WEIGHT: [u32; 40] = [
    88761, 71755, 56483, 46273, 36291, // -20
    29154, 23254, 18705, 14949, 11916, // -15
    9548, 7620, 6100, 4904, 3906, // -10
    3121, 2501, 1991, 1586, 1277, // -5
    1024, 820, 655, 526, 423, // 0
    335, 272, 215, 172, 137, // 5
    110, 87, 70, 56, 45, // 10
    36, 29, 23, 18, 15, // 15
];

/// 2^32 / weight for each of [`NICE_TO_WEIGHT`], rounded (`sched_prio_to_wmult`).
pub const NICE_TO_INVERSE: [u32; 40] = [
    48388, 59856, 76040, 92818, 118348, // -20
    147320, 184698, 229616, 287308, 360437, // -15
    449829, 563644, 704093, 875809, 1099582, // -10
    1376151, 1717300, 2157191, 2708050, 3363326, // -5
    4194304, 5237765, 6557202, 8165337, 10153587, // 0
    12820798, 15790321, 19976592, 24970740, 31350126, // 5
    39045157, 49367440, 61356676, 76695844, 95443717, // 10
    119304647, 148102320, 186737708, 238609294, 286331153, // 15
];

/// An entity's load and its inverse (`struct load_weight`).
///
/// Bounds: a load of 0 is taken for one of no weight and the largest inverse, as in the
/// kernel; loads above 2^42 - 1 are out of the kernel's range and are cut to that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadWeight {
    load: u64,
    inverse: u32,
}

impl LoadWeight {
    /// The load of a task: `nice` from -20 to 19, cut to that range (`set_load_weight`).
    pub fn from_nice(nice: i32) -> Self {
        let index = (nice.clamp(-20, 19) + 20) as usize;
        Self {
            load: u64::from(NICE_TO_WEIGHT[index]) << SCALE_SHIFT,
            inverse: NICE_TO_INVERSE[index],
        }
    }

    /// The load of a SCHED_IDLE task (`set_load_weight`).
    pub fn idle() -> Self {
        Self {
            load: u64::from(IDLE_WEIGHT) << SCALE_SHIFT,
            inverse: IDLE_INVERSE,
        }
    }

    /// Any load, with the inverse that the kernel works out (`update_load_set`,
    /// `__update_inv_weight`): (2^32 - 1) / weight, rounded down. A group's entity has
    /// its group's cpu.weight * 1024 / 100 * 1024 (shares, scaled up) on one CPU, and
    /// its part of that on several (`calc_group_shares`).
    pub fn from_load(load: u64) -> Self {
        let load = load.min((1 << (32 + SCALE_SHIFT)) - 1);
        let inverse = u32::MAX.checked_div(scale_load_down(load) as u32);
        Self {
            load,
            inverse: inverse.unwrap_or(u32::MAX),
        }
    }

    /// The load of a group whose shares are `shares` (1024 is cpu.weight 100), all of it
    /// on one CPU. Cut to 2 to 2^18 (`__sched_group_set_shares`).
    pub fn from_shares(shares: u32) -> Self {
        Self::from_load(u64::from(shares.clamp(2, MAX_SHARES)) << SCALE_SHIFT)
    }

    /// Load with 10 more bits than a weight (`load.weight`).
    pub fn load(&self) -> u64 {
        self.load
    }

    /// The weight, 1024 for nice 0, at least 2 unless the load is 0
    /// (`scale_load_down(load.weight)`).
    pub fn weight(&self) -> u32 {
        scale_load_down(self.load) as u32
    }

    /// About 2^32 / weight (`load.inv_weight`).
    pub fn inverse(&self) -> u32 {
        self.inverse
    }

    /// Virtual ns for `service` ns: service * 1024 / weight, nearly rounded down
    /// (`calc_delta_fair`).
    ///
    /// Bounds: the result is off by less than 1 + service / 2^22 * (1 + 3 / weight) virtual
    /// ns, as the inverse has 32 bits; it is exact for nice 0. Past 2^64 it wraps.
    pub fn calc_delta_fair(&self, service: u64) -> u64 {
        if self.load == NICE_0_LOAD {
            return service;
        }
        self.calc_delta(service, NICE_0_WEIGHT)
    }

    /// delta * `weight` / self.weight, by the inverse (`__calc_delta`). The kernel takes
    /// a load where this takes a weight, below 2^32: its first shift never happens.
    pub fn calc_delta(&self, delta: u64, weight: u32) -> u64 {
        let mut fact = u64::from(weight) * u64::from(self.inverse);
        let mut shift = INVERSE_SHIFT;
        // Keep 32 bits of the factor.
        let excess = 32 - ((fact >> 32) as u32).leading_zeros();
        if excess > 0 {
            shift -= excess;
            fact >>= excess;
        }
        mul_shr(delta, fact as u32, shift)
    }
}

/// `load` without its 10 more bits, but at least 2 if it is not 0 (`scale_load_down`).
pub fn scale_load_down(load: u64) -> u64 {
    match load {
        0 => 0,
        _ => (load >> SCALE_SHIFT).max(2),
    }
}

/// (a * b) >> shift with 96 bits between, cut to 64 (`mul_u64_u32_shr`).
pub(crate) fn mul_shr(a: u64, b: u32, shift: u32) -> u64 {
    ((u128::from(a) * u128::from(b)) >> shift) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nice_0_is_exact_and_others_follow_their_weight() {
        assert_eq!(LoadWeight::from_nice(0).calc_delta_fair(12_345), 12_345);
        // 1024/15 and 1024/88761 of 1 ms.
        assert_eq!(
            LoadWeight::from_nice(19).calc_delta_fair(1_000_000),
            68_266_666
        );
        assert_eq!(
            LoadWeight::from_nice(-20).calc_delta_fair(1_000_000),
            11_536
        );
        // Rounded down, as 1431655765 is less than 2^32 / 3.
        assert_eq!(LoadWeight::idle().calc_delta_fair(3), 1023);
    }

    #[test]
    fn a_load_of_zero_is_guarded() {
        let none = LoadWeight::from_load(0);
        assert_eq!((none.weight(), none.inverse()), (0, u32::MAX));
        assert_eq!(none.calc_delta_fair(1 << 20), (1 << 30) - 1);
    }

    #[test]
    fn loads_are_at_least_two_and_at_most_what_fits() {
        assert_eq!(LoadWeight::from_load(1).weight(), 2);
        assert_eq!(LoadWeight::from_shares(0).weight(), 2);
        assert_eq!(LoadWeight::from_load(u64::MAX).weight(), u32::MAX);
        assert_eq!(LoadWeight::from_shares(u32::MAX).weight(), MAX_SHARES);
    }
}
