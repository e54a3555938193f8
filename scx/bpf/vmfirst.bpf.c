// SPDX-License-Identifier: GPL-2.0-only
/*
 * scx_vmfirst: KVM's vCPUs first, and a spinning vCPU lends its turn.
 *
 * Each LLC has a queue a lane, and each CPU one for threads that may run nowhere else. Lanes
 * are served from the top: SYS, VM, FAIR, OFFLINE (state.h). A lane that waits below others
 * has a floor: a share of each CPU's time. In a lane the least vtime runs.
 *
 * A yield marks whom the yielder wants to run. ops.yield() may not move that one: it ends the
 * yielder's slice, and ops.dispatch() of the same CPU, which comes next, makes the move. The
 * borrower pays by its own vtime, within a bound. The yielder pays nothing.
 *
 * kvm.h has who is a vCPU and who waits for whom, policy.h all arithmetic.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "policy.h"
#include "kfuncs.h"
#include "state.h"
#include "kvm.h"
#include "groups.h"

char _license[] SEC("license") = "GPL";

#define CPU_DSQ		0x10000
/* How many CPUs a wake-up looks at, and how many waiting tasks a rescue. */
#define WAKE_LOOKS	32
#define RESCUE_LOOKS	8
#define RESCUE_EVERY	100000000ULL
/* A floor that is later than this was not waited for all the time. */
#define LATE_MOST	10000000ULL
/* vCPUs that a look for the best rank walks past. */
#define RANK_LOOKS	128

static __always_inline u32 llc_of(s32 cpu)
{
	return cpu_llc[cpu & (MAX_CPUS - 1)];
}

static __always_inline u64 llc_dsq(u32 lane, u32 llc)
{
	return ((u64)lane << 20) + llc;
}

static __always_inline u64 cpu_dsq(u32 lane, s32 cpu)
{
	return ((u64)lane << 20) + CPU_DSQ + cpu;
}

static __always_inline u64 *clock_of(u32 lane)
{
	return &clocks[lane < NR_LANES ? lane : 0];
}

/* ---- what a thread is ---- */

static __always_inline bool is_offline(struct task_struct *p)
{
	return p->policy == SCHED_IDLE || p->policy == SCHED_BATCH;
}

static u32 kind_of(struct task_struct *p, struct task_ctx *tc)
{
	if (p->flags & PF_KTHREAD)
		return K_KTHREAD;
	if (is_offline(p) || tc->offline_group)
		return K_OFFLINE;
	if (tc->vcpu)
		return K_VCPU;
	return vm_of(p) ? K_HELPER : K_OTHER;
}

static __always_inline u32 base_of(u32 kind)
{
	if (kind == K_OFFLINE)
		return L_OFFLINE;
	if (vm_first && (kind == K_VCPU || kind == K_HELPER))
		return L_VM;
	return L_FAIR;
}

/* Decides what the thread is, where it waits, and its vtime there. */
static void place(struct task_struct *p, struct task_ctx *tc)
{
	u32 base;

	/* One that is found to be a VM's competes for it from now on. */
	if (tc->competes && tc->in_vm != (vm_first && vm_of(p))) {
		withdraw(p, tc);
		compete(p, tc);
	}
	tc->share = share_of(p, tc);
	tc->kind = kind_of(p, tc);
	base = base_of(tc->kind);
	/* Each lane has its own clock. */
	if (base != tc->base)
		p->scx.dsq_vtime = *clock_of(base);
	tc->base = base;
	tc->lane = base;
	if ((tc->kind == K_HELPER || tc->kind == K_KTHREAD) && tc->burst)
		tc->lane = L_SYS;
	p->scx.dsq_vtime = scx_place(p->scx.dsq_vtime, *clock_of(base),
				     scx_charge(slice_ns, tc->share));
}

/* ---- waking up ---- */

SEC("struct_ops/vmfirst_runnable")
void BPF_PROG(vmfirst_runnable, struct task_struct *p, u64 enq_flags)
{
	struct task_ctx *tc = ctx_of(p);
	u64 now = bpf_ktime_get_ns();
	struct vm *vm;

	if (!tc)
		return;
	tc->burst = scx_burst_refill(tc->burst, now - tc->stopped, burst_ns);
	tc->waits_since = now;
	tc->woken = enq_flags & SCX_ENQ_WAKEUP;
	if (!tc->active && (vm = vm_of(p))) {
		__sync_fetch_and_add(&vm->active, 1);
		tc->active = true;
	}
	if (!tc->competes)
		compete(p, tc);
	place(p, tc);
}

SEC("struct_ops/vmfirst_quiescent")
void BPF_PROG(vmfirst_quiescent, struct task_struct *p, u64 deq_flags)
{
	struct task_ctx *tc = ctx_of(p);
	struct vm *vm;

	if (!tc)
		return;
	if (tc->competes)
		withdraw(p, tc);
	if (!tc->active || !(vm = vm_of(p)))
		return;
	__sync_fetch_and_sub(&vm->active, 1);
	tc->active = false;
}

SEC("struct_ops/vmfirst_select_cpu")
s32 BPF_PROG(vmfirst_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &idle);

	if (idle)
		insert(p, SCX_DSQ_LOCAL, slice_ns, 0);
	return cpu;
}

/* Whether who waits may take a CPU from what runs there. */
static bool beats(struct task_ctx *tc, u64 vtime, struct cpu_ctx *cc, u64 now)
{
	if (!cc || cc->lane == L_NONE || cc->kicked)
		return false;
	if (cc->lane != tc->lane)
		return tc->lane > cc->lane;
	if (tc->lane == L_SYS)
		return false;
	return scx_preempts(vtime, cc->vtime + scx_charge(now - cc->started, tc->share),
			    scx_charge(wake_margin_ns, tc->share));
}

static __always_inline void take_cpu(struct cpu_ctx *cc, s32 cpu)
{
	cc->kicked = 1;
	count(C_PREEMPT);
	scx_bpf_kick_cpu(cpu, SCX_KICK_PREEMPT);
}

/* Who wakes up takes its own CPU, or else one of its LLC where something less urgent runs. */
static void preempt(struct task_struct *p, struct task_ctx *tc, s32 cpu, u64 now)
{
	struct cpu_ctx *cc = cpu_of(cpu);
	u32 llc = llc_of(cpu), i, other;

	if (beats(tc, p->scx.dsq_vtime, cc, now)) {
		take_cpu(cc, cpu);
		return;
	}
	if (tc->lane <= L_FAIR || p->nr_cpus_allowed == 1)
		return;
	bpf_for(i, 1, WAKE_LOOKS) {
		if (i >= nr_cpus)
			break;
		other = (cpu + i) % nr_cpus;
		cc = cpu_of(other);
		if (!cc || cc->lane == L_NONE || cc->kicked || cc->lane >= tc->lane ||
		    llc_of(other) != llc || !bpf_cpumask_test_cpu(other, p->cpus_ptr))
			continue;
		take_cpu(cc, other);
		return;
	}
}

SEC("struct_ops/vmfirst_enqueue")
void BPF_PROG(vmfirst_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_ctx *tc = ctx_of(p);
	s32 cpu = scx_bpf_task_cpu(p), idle;

	if (!tc) {
		insert(p, SCX_DSQ_GLOBAL, slice_ns, enq_flags);
		return;
	}
	place(p, tc);
	/* A kernel thread of one CPU is that CPU's own business. */
	if (tc->lane == L_SYS && p->nr_cpus_allowed == 1 && tc->kind == K_KTHREAD) {
		insert(p, SCX_DSQ_LOCAL, tc->burst, enq_flags | SCX_ENQ_PREEMPT);
		return;
	}
	tc->dsq = p->nr_cpus_allowed == 1 ? cpu_dsq(tc->lane, cpu) : llc_dsq(tc->lane, llc_of(cpu));
	/* First come, first served in SYS; a queue has one order only. */
	if (tc->lane == L_SYS)
		insert(p, tc->dsq, tc->burst < slice_ns ? tc->burst : slice_ns, enq_flags);
	else
		insert_vtime(p, tc->dsq, slice_ns, p->scx.dsq_vtime, enq_flags);

	idle = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (idle >= 0)
		scx_bpf_kick_cpu(idle, SCX_KICK_IDLE);
	else if (enq_flags & SCX_ENQ_WAKEUP)
		preempt(p, tc, cpu, bpf_ktime_get_ns());
}

/* ---- yields ---- */

SEC("struct_ops/vmfirst_yield")
bool BPF_PROG(vmfirst_yield, struct task_struct *from, struct task_struct *to)
{
	struct task_ctx *tc = ctx_of(from);

	from->scx.slice = 0;
	if (tc)
		tc->yielded = true;
	if (!to)
		return false;
	count(C_YIELD);
	if (!tc || !lend)
		return true;
	if (tc->by_receiver && tc->lend_to) {
		if (tc->lend_to != to->pid)
			count(C_RECEIVER);
		return true;
	}
	tc->lend_to = to->pid;
	return true;
}

/* Whether a task that waits on another CPU's behalf may be moved to this one. */
static __always_inline bool may_run_here(struct task_struct *p, s32 cpu)
{
	if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
		return false;
	/* The kernel ends a scheduler that moves one that must stay. */
	return !p->migration_disabled || scx_bpf_task_cpu(p) == cpu;
}

struct best {
	int rank;
	s32 pid;
};

static void best_of(u64 dsq, u64 kvm, s32 to, struct best *best)
{
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;
	struct task_ctx *tc;
	int looks = 0, rank;

	if (!bpf_iter_scx_dsq_new(&it, dsq, 0)) {
		while ((p = bpf_iter_scx_dsq_next(&it)) && ++looks <= RANK_LOOKS) {
			tc = ctx_of(p);
			if (!tc || tc->kvm != kvm || tc->yielded)
				continue;
			rank = rank_of(tc);
			/* Of equals KVM's choice, then who has waited longest. */
			if (rank > best->rank || (rank == best->rank && p->pid == to)) {
				best->rank = rank;
				best->pid = p->pid;
			}
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
}

/* The vCPU that is to run instead of the yielder. */
static s32 wanted_by(struct task_ctx *tc, s32 cpu)
{
	struct best best = { .pid = tc->lend_to };

	if (!ranks || tc->by_receiver || !tc->kvm)
		return best.pid;
	best_of(llc_dsq(tc->base, llc_of(cpu)), tc->kvm, tc->lend_to, &best);
	best_of(cpu_dsq(tc->base, cpu), tc->kvm, tc->lend_to, &best);
	if (best.pid != tc->lend_to)
		count(C_RANKED);
	return best.pid;
}

/* Puts one that waits next on this CPU. */
static bool borrow(struct task_struct *p, struct task_ctx *tc, s32 cpu)
{
	struct bpf_iter_scx_dsq it;
	bool done = false;

	if (!scx_may_lend(p->scx.dsq_vtime, *clock_of(tc->base), scx_charge(debt_ns, tc->share))) {
		count(C_DEBT);
		return false;
	}
	if (tc->dsq && may_run_here(p, cpu)) {
		if (!bpf_iter_scx_dsq_new(&it, tc->dsq, 0))
			done = move_here(&it, p);
		bpf_iter_scx_dsq_destroy(&it);
	}
	if (!done)
		count(C_GONE);
	return done;
}

/* The turn that the yielder lends. */
static bool give_turn(struct task_struct *from, struct task_ctx *tc, s32 cpu)
{
	s32 pid = wanted_by(tc, cpu);
	struct task_struct *to = bpf_task_from_pid(pid);
	struct task_ctx *target;
	struct vm *vm;
	bool done = false;

	tc->lend_to = 0;
	tc->by_receiver = false;
	if (!to) {
		count(C_GONE);
		return false;
	}
	target = ctx_of(to);
	if (target && target->base == tc->base)
		done = borrow(to, target, cpu);
	if (done && target)
		target->borrowed = true;
	bpf_task_release(to);
	if (!done)
		return false;
	count(C_LENT);
	if ((vm = vm_of(from)))
		__sync_fetch_and_add(&vm->lent, 1);
	return true;
}

/* ---- who runs next ---- */

/* What ran until now and could go on. */
struct before {
	u64 vtime;
	u32 lane;
};

enum pick { P_NONE, P_TAKEN, P_KEEP };

static bool head_of(u64 dsq, u64 *vtime)
{
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;
	bool found = false;

	if (!scx_bpf_dsq_nr_queued(dsq))
		return false;
	if (!bpf_iter_scx_dsq_new(&it, dsq, 0)) {
		p = bpf_iter_scx_dsq_next(&it);
		if (p) {
			*vtime = p->scx.dsq_vtime;
			found = true;
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	return found;
}

/* The least vtime of a lane: of the LLC's queue, the CPU's own, and of what ran until now. */
static enum pick pick(u32 lane, s32 cpu, struct before *prev)
{
	u64 shared = llc_dsq(lane, llc_of(cpu)), own = cpu_dsq(lane, cpu), at = 0, own_at = 0;
	bool has = head_of(shared, &at), has_own = head_of(own, &own_at);
	bool counts = prev->lane == lane, own_first;

	if (!has && !has_own)
		return counts ? P_KEEP : P_NONE;
	own_first = has_own && (!has || scx_before(own_at, at));
	if (counts && !scx_before(own_first ? own_at : at, prev->vtime))
		return P_KEEP;
	if (consume(own_first ? own : shared) || consume(own_first ? shared : own))
		return P_TAKEN;
	return counts ? P_KEEP : P_NONE;
}

static bool steal(u32 lane, s32 cpu)
{
	u32 llc = llc_of(cpu), i;
	u64 dsq;

	bpf_for(i, 1, nr_llcs) {
		dsq = llc_dsq(lane, (llc + i) % nr_llcs);
		if (scx_bpf_dsq_nr_queued(dsq) && consume(dsq)) {
			count(C_STOLEN);
			return true;
		}
	}
	return false;
}

/* A turn of a lane that waits below others, when its floor is due. */
static bool give_floor(u32 lane, s32 cpu, struct cpu_ctx *cc, u64 now)
{
	u64 shared = llc_dsq(lane, llc_of(cpu)), own = cpu_dsq(lane, cpu), gap;
	struct before nobody = {};
	u32 many = scx_bpf_dsq_nr_queued(shared), many_own = scx_bpf_dsq_nr_queued(own);
	u64 due;

	if (!(many + many_own) || lane >= NR_LANES)
		return false;
	gap = scx_floor_hurry(cc->floor_gap[lane], budget_ns,
			      llc_cpus[llc_of(cpu) & (MAX_CPUS - 1)], many);
	/* Those that can run nowhere else have this CPU only. */
	gap = scx_floor_hurry(gap, budget_ns, 1, many_own);
	due = cc->floor_since[lane] + gap;
	if (scx_before(now, due))
		return false;
	if (pick(lane, cpu, &nobody) != P_TAKEN)
		return false;
	cc->floor_turn = 1;
	/* Turns end with ticks: what this one is late by comes off the next gap. */
	cc->floor_late = now - due < LATE_MOST ? now - due : 0;
	count(lane == L_FAIR ? C_FAIR_FLOOR : C_OFFLINE_FLOOR);
	return true;
}

/* Of those that are last in a queue one that has waited for half of the budget. */
static bool rescue_from(u64 dsq, s32 cpu, u64 now)
{
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;
	struct task_ctx *tc;
	bool done = false;
	int looks = 0;

	if (!scx_bpf_dsq_nr_queued(dsq))
		return false;
	if (!bpf_iter_scx_dsq_new(&it, dsq, SCX_DSQ_ITER_REV)) {
		while (!done && (p = bpf_iter_scx_dsq_next(&it)) && ++looks <= RESCUE_LOOKS) {
			tc = ctx_of(p);
			if (!tc || scx_before(now, tc->waits_since + budget_ns / 2))
				continue;
			if (may_run_here(p, cpu))
				done = move_here(&it, p);
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	return done;
}

static bool rescue(s32 cpu, struct cpu_ctx *cc, u64 now)
{
	u32 lane;

	if (scx_before(now, cc->rescue_at))
		return false;
	cc->rescue_at = now + RESCUE_EVERY;
	bpf_for(lane, L_OFFLINE, L_SYS) {
		if (rescue_from(llc_dsq(lane, llc_of(cpu)), cpu, now) ||
		    rescue_from(cpu_dsq(lane, cpu), cpu, now)) {
			cc->floor_turn = 1;
			count(C_RESCUED);
			return true;
		}
	}
	return false;
}

static void look_at(struct before *out, struct task_struct *prev, struct task_ctx *tc, u64 now)
{
	if (!(prev->scx.flags & SCX_TASK_QUEUED) || tc->yielded)
		return;
	out->lane = tc->base;
	out->vtime = prev->scx.dsq_vtime + scx_charge(now - tc->started, tc->share);
}

/* Everything but yields and floors: the lanes from the top. */
static enum pick pick_any(s32 cpu, struct before *prev)
{
	enum pick found = P_NONE;

	if (vm_first) {
		found = pick(L_VM, cpu, prev);
		if (found == P_NONE && steal(L_VM, cpu))
			found = P_TAKEN;
	}
	if (found == P_NONE)
		found = pick(L_FAIR, cpu, prev);
	if (found == P_NONE && (steal(L_FAIR, cpu) || steal(L_SYS, cpu)))
		found = P_TAKEN;
	if (found == P_NONE)
		found = pick(L_OFFLINE, cpu, prev);
	if (found == P_NONE && steal(L_OFFLINE, cpu))
		found = P_TAKEN;
	return found;
}

SEC("struct_ops/vmfirst_dispatch")
void BPF_PROG(vmfirst_dispatch, s32 cpu, struct task_struct *prev)
{
	struct cpu_ctx *cc = cpu_of(cpu);
	struct task_ctx *tc = prev ? ctx_of(prev) : 0;
	struct before before = {};
	u64 now = bpf_ktime_get_ns();

	count(C_DISPATCH);
	if (!cc)
		return;
	if (prev && tc && tc->lend_to && give_turn(prev, tc, cpu))
		return;
	if (consume(cpu_dsq(L_SYS, cpu)) || consume(llc_dsq(L_SYS, llc_of(cpu))))
		return;
	if (rescue(cpu, cc, now))
		return;
	if (vm_first && give_floor(L_FAIR, cpu, cc, now))
		return;
	if (give_floor(L_OFFLINE, cpu, cc, now))
		return;
	if (prev && tc)
		look_at(&before, prev, tc, now);
	if (pick_any(cpu, &before) == P_TAKEN)
		return;
	/* Nobody is before it: not for the kernel's 20 ms. */
	if (prev && (prev->scx.flags & SCX_TASK_QUEUED))
		prev->scx.slice = slice_ns;
}

/* ---- running ---- */

static void count_wait(struct task_struct *p, struct task_ctx *tc, u64 now)
{
	u64 waited = now - tc->waits_since, *n;
	struct vm *vm;
	u32 key;

	if (tc->kind == K_VCPU && (vm = vm_of(p))) {
		__sync_fetch_and_add(&vm->waited_ns, waited);
		__sync_fetch_and_add(&vm->turns, 1);
	}
	if (!tc->woken)
		return;
	tc->woken = false;
	key = tc->kind * BUCKETS + scx_bucket(waited, BUCKETS);
	n = bpf_map_lookup_elem(&vmf_wakeups, &key);
	if (n)
		(*n)++;
}

SEC("struct_ops/vmfirst_running")
void BPF_PROG(vmfirst_running, struct task_struct *p)
{
	struct task_ctx *tc = ctx_of(p);
	u32 cpu = bpf_get_smp_processor_id();
	struct cpu_ctx *cc = cpu_of(cpu);
	u64 *clock;

	if (!tc || !cc)
		return;
	tc->started = bpf_ktime_get_ns();
	tc->yielded = false;
	if (tc->base == L_NONE)
		place(p, tc);
	count_wait(p, tc, tc->started);
	if (tc->vcpu && tc->cpu != cpu)
		count(C_MIGRATED);
	tc->cpu = cpu;
	/* Who was lent a turn runs ahead of its queue: the clock is not for it to move. */
	clock = clock_of(tc->base);
	if (!tc->borrowed && scx_before(*clock, p->scx.dsq_vtime))
		*clock = p->scx.dsq_vtime;
	tc->borrowed = false;
	if (cc->floor_turn)
		p->scx.slice = floor_slice_ns;
	cc->floor_turn = 0;
	cc->kicked = 0;
	cc->started = tc->started;
	cc->vtime = p->scx.dsq_vtime;
	cc->lane = tc->lane;
}

static __always_inline u32 counter_of(u32 kind)
{
	if (kind == K_VCPU || kind == K_HELPER)
		return C_VM_NS;
	if (kind == K_KTHREAD)
		return C_KERNEL_NS;
	return kind == K_OFFLINE ? C_OFFLINE_NS : C_FAIR_NS;
}

SEC("struct_ops/vmfirst_stopping")
void BPF_PROG(vmfirst_stopping, struct task_struct *p, bool runnable)
{
	struct task_ctx *tc = ctx_of(p);
	struct cpu_ctx *cc = cpu_of(bpf_get_smp_processor_id());
	u64 now = bpf_ktime_get_ns(), ran;
	u32 lane;
	struct vm *vm;

	if (!tc || !cc)
		return;
	ran = now - tc->started;
	lane = tc->base < NR_LANES ? tc->base : 0;
	/* By now its VM may have other vCPUs awake, and it may have become one itself. */
	tc->share = share_of(p, tc);
	p->scx.dsq_vtime += scx_charge(ran, tc->share);
	tc->burst = scx_burst_spend(tc->burst, ran);
	tc->stopped = now;
	if (runnable)
		tc->waits_since = now;
	count_many(counter_of(tc->kind), ran);
	if ((tc->kind == K_VCPU || tc->kind == K_HELPER) && (vm = vm_of(p)))
		__sync_fetch_and_add(&vm->ran_ns, ran);
	cc->floor_since[lane] = now;
	cc->floor_gap[lane] = scx_floor_gap(
		ran, lane == L_OFFLINE ? offline_floor_mille : fair_floor_mille, floor_most_ns);
	cc->floor_gap[lane] = scx_burst_spend(cc->floor_gap[lane], cc->floor_late);
	cc->floor_late = 0;
	cc->lane = L_NONE;
}

/* Core scheduling: which of two is to run, when a core can't have both. */
SEC("struct_ops/vmfirst_core_sched_before")
bool BPF_PROG(vmfirst_core_sched_before, struct task_struct *a, struct task_struct *b)
{
	struct task_ctx *ta = ctx_of(a), *tb = ctx_of(b);

	if (!ta || !tb)
		return false;
	if (ta->lane != tb->lane)
		return ta->lane > tb->lane;
	return scx_before(a->scx.dsq_vtime, b->scx.dsq_vtime);
}

/* ---- coming and going ---- */

SEC("struct_ops.s/vmfirst_init_task")
s32 BPF_PROG(vmfirst_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	struct task_ctx *tc = bpf_task_storage_get(&vmf_tasks, p, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!tc)
		return -E_NOMEM;
	tc->burst = burst_ns;
	return 0;
}

SEC("struct_ops/vmfirst_exit_task")
void BPF_PROG(vmfirst_exit_task, struct task_struct *p, struct scx_exit_task_args *args)
{
	struct task_ctx *tc = ctx_of(p);

	if (tc && tc->vcpu)
		leave_vm(p, tc);
}

SEC("struct_ops.s/vmfirst_init")
s32 BPF_PROG(vmfirst_init)
{
	s32 err;
	u32 i, lane;

	bpf_for(lane, L_OFFLINE, NR_LANES) {
		bpf_for(i, 0, nr_llcs) {
			err = scx_bpf_create_dsq(llc_dsq(lane, i), -1);
			if (err)
				return err;
		}
		bpf_for(i, 0, nr_cpus) {
			err = scx_bpf_create_dsq(cpu_dsq(lane, i), -1);
			if (err)
				return err;
		}
	}
	return 0;
}

SEC("struct_ops/vmfirst_exit")
void BPF_PROG(vmfirst_exit, struct scx_exit_info *info)
{
	bpf_probe_read_kernel_str(ended.reason, sizeof(ended.reason), info->reason);
	bpf_probe_read_kernel_str(ended.message, sizeof(ended.message), info->msg);
	ended.code = info->exit_code;
	ended.kind = info->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops vmfirst_ops = {
	.select_cpu		= (void *)vmfirst_select_cpu,
	.enqueue		= (void *)vmfirst_enqueue,
	.dispatch		= (void *)vmfirst_dispatch,
	.runnable		= (void *)vmfirst_runnable,
	.running		= (void *)vmfirst_running,
	.stopping		= (void *)vmfirst_stopping,
	.quiescent		= (void *)vmfirst_quiescent,
	.yield			= (void *)vmfirst_yield,
	.core_sched_before	= (void *)vmfirst_core_sched_before,
	.init_task		= (void *)vmfirst_init_task,
	.exit_task		= (void *)vmfirst_exit_task,
	.cgroup_init		= (void *)vmfirst_cgroup_init,
	.cgroup_set_weight	= (void *)vmfirst_cgroup_set_weight,
	.cgroup_set_idle	= (void *)vmfirst_cgroup_set_idle,
	.init			= (void *)vmfirst_init,
	.exit			= (void *)vmfirst_exit,
	.timeout_ms		= 20000,
	.name			= "vmfirst",
};
