/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The arithmetic of scx_vmfirst: pure functions of numbers, nothing of BPF.
 *
 * sched-core/src/ext.rs is the specification of the same functions. sched-core's tests
 * compile this file in user space and compare bit for bit.
 *
 * Times are ns. A share is a weight of sched_ext (100 is nice 0) times 1024, so that it can
 * be split among many. A vtime is ns of service at SCX_SHARE_ONE; vtimes wrap and are
 * compared by signed difference.
 */
#ifndef SCX_VMFIRST_POLICY_H
#define SCX_VMFIRST_POLICY_H

/* The share of a task of nice 0 that has no siblings to split with. */
#define SCX_SHARE_ONE	(100ULL << 10)
/* Nobody is charged more at once: it would not fit into 64 bits. About 4.8 hours. */
#define SCX_CHARGE_MOST	(1ULL << 44)

/* Whether vtime or time a comes before b. */
static inline bool scx_before(u64 a, u64 b)
{
	return (s64)(a - b) < 0;
}

/* What one of `whole` has of a share when its own part is `part`; never nothing. */
static inline u64 scx_split(u64 share, u64 part, u64 whole)
{
	u64 mine = share * part / (whole ? whole : 1);

	return mine ? mine : 1;
}

/* What `service` costs in vtime: the less share, the more. */
static inline u64 scx_charge(u64 service, u64 share)
{
	u64 most = service < SCX_CHARGE_MOST ? service : SCX_CHARGE_MOST;

	return most * SCX_SHARE_ONE / (share ? share : 1);
}

/* Where who becomes runnable is placed: whoever slept keeps `credit` of vtime at most. */
static inline u64 scx_place(u64 vtime, u64 clock, u64 credit)
{
	u64 least = clock - credit;

	return scx_before(vtime, least) ? least : vtime;
}

/* Whether who wakes up takes the CPU of one of its own lane. */
static inline bool scx_preempts(u64 vtime, u64 running, u64 margin)
{
	return scx_before(vtime + margin, running);
}

/* Whether a vCPU may run out of turn: it owes no more than `debt` to the others. */
static inline bool scx_may_lend(u64 vtime, u64 clock, u64 debt)
{
	return !scx_before(clock + debt, vtime);
}

/*
 * How long a lane that has run for `ran` leaves the CPU to those above it before its floor of
 * `per_mille` lets it run again: ran * (1000 - per_mille) / per_mille, `most` at most.
 */
static inline u64 scx_floor_gap(u64 ran, u64 per_mille, u64 most)
{
	u64 ns = ran < SCX_CHARGE_MOST ? ran : SCX_CHARGE_MOST;
	u64 mille = per_mille < 1 ? 1 : per_mille > 1000 ? 1000 : per_mille;
	u64 gap = ns * (1000 - mille) / mille;

	return gap < most ? gap : most;
}

/*
 * The same gap, no longer than lets each of `queued` tasks on `cpus` CPUs run once in
 * `budget`: the watchdog ends a scheduler that lets one wait for too long.
 */
static inline u64 scx_floor_hurry(u64 gap, u64 budget, u64 cpus, u64 queued)
{
	u64 hurry = budget * cpus / (queued ? queued : 1);

	return gap < hurry ? gap : hurry;
}

/* What is left of a burst after `idle` ns without running: a quarter of these comes back. */
static inline u64 scx_burst_refill(u64 left, u64 idle, u64 most)
{
	u64 full = left + (idle >> 2);

	return full < left || full > most ? most : full;
}

/* What is left of a burst after running for `ran`. */
static inline u64 scx_burst_spend(u64 left, u64 ran)
{
	return ran < left ? left - ran : 0;
}

/* The bucket of a histogram: 0 below 1.024 us, then one for each power of two. */
static inline u64 scx_bucket(u64 ns, u64 buckets)
{
	u64 us = ns >> 10, bucket = 0;

	if (us >> 32) { bucket += 32; us >>= 32; }
	if (us >> 16) { bucket += 16; us >>= 16; }
	if (us >> 8) { bucket += 8; us >>= 8; }
	if (us >> 4) { bucket += 4; us >>= 4; }
	if (us >> 2) { bucket += 2; us >>= 2; }
	if (us >> 1) { bucket += 1; us >>= 1; }
	bucket += us;
	return bucket < buckets ? bucket : buckets - 1;
}

#endif
