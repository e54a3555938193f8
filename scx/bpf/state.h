/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What this scheduler remembers: of each thread, CPU, vCPU and VM; what it counts; and what
 * the loader sets. The names of counters and the layout of `struct vm` are also in
 * scx/src/counters.rs, whose test reads this file.
 */
#ifndef SCX_VMFIRST_STATE_H
#define SCX_VMFIRST_STATE_H

#define MAX_CPUS	1024
/* vCPUs of a VM whose interrupts are followed; further ones are scheduled like the others. */
#define MAX_VCPUS	256
#define BUCKETS		24

/*
 * Lanes, the more urgent the higher. SYS is for kernel threads and VMMs' I/O threads, for
 * short bursts. In mode fair vCPUs are in FAIR with all others.
 */
enum lane { L_NONE, L_OFFLINE, L_FAIR, L_VM, L_SYS, NR_LANES };

/* What a thread is, for histograms. */
enum kind { K_OTHER, K_VCPU, K_HELPER, K_KTHREAD, K_OFFLINE, NR_KINDS };

/* ---- set by the loader ---- */

const volatile bool vm_first = true;
const volatile bool lend = true;
const volatile bool receivers = true;
const volatile bool ranks = true;
const volatile u64 slice_ns = 3000000;
const volatile u64 wake_margin_ns = 1000000;
/* How far ahead of its queue a borrower may be. */
const volatile u64 debt_ns = 3000000;
/* An IPI that is older is forgotten. */
const volatile u64 window_ns = 50000000;
/* Turns that the floor gives are so long, and then a tick. */
const volatile u64 floor_slice_ns = 1000000;
const volatile u64 fair_floor_mille = 50;
const volatile u64 offline_floor_mille = 10;
/* The longest that a lane's floor keeps it waiting. */
const volatile u64 floor_most_ns = 1000000000;
/* Every waiting task is to run once in this time, which is far below the watchdog's. */
const volatile u64 budget_ns = 8000000000;
const volatile u64 burst_ns = 500000;
const volatile u32 nr_cpus = 1;
const volatile u32 nr_llcs = 1;
const volatile u16 cpu_llc[MAX_CPUS];
const volatile u32 llc_cpus[MAX_CPUS];

/* ---- why it ended, for the loader ---- */

struct ended {
	s32 kind;
	s64 code;
	char reason[64];
	char message[256];
};
struct ended ended;

/* ---- counted ---- */

enum counter {
	C_SPIN,		/* spin exits */
	C_SENDER,	/* of them by a vCPU whose IPI has no answer yet */
	C_YIELD,	/* ops.yield with a target */
	C_RECEIVER,	/* an IPI's receiver instead of KVM's target */
	C_KICK,		/* KVM had no target, but a receiver was known */
	C_RANKED,	/* another one than KVM's target, by its rank */
	C_LENT,		/* the wanted vCPU ran next on the yielder's CPU */
	C_DEBT,		/* it owed too much */
	C_GONE,		/* it did not wait any more, or may not run there */
	C_IPI,		/* receivers of IPIs that were remembered */
	C_VCPUS,	/* vCPUs found */
	C_PREEMPT,	/* wake-ups that took a CPU */
	C_FAIR_FLOOR,	/* turns by fair's floor */
	C_OFFLINE_FLOOR,	/* turns by the offline floor */
	C_RESCUED,	/* turns of tasks that had waited for half of the budget */
	C_STOLEN,	/* taken from another LLC's queue */
	C_MIGRATED,	/* vCPUs that run on another CPU than before */
	C_DISPATCH,	/* looks for the next task */
	C_FAIR_NS,	/* time that ordinary tasks ran */
	C_OFFLINE_NS,
	C_VM_NS,	/* vCPUs and VMMs' I/O threads */
	C_KERNEL_NS,
	NR_COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NR_COUNTERS);
	__type(key, u32);
	__type(value, u64);
} vmf_counters SEC(".maps");

/* Wake-ups by kind and by how long it took until the thread ran: see scx_bucket(). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NR_KINDS * BUCKETS);
	__type(key, u32);
	__type(value, u64);
} vmf_wakeups SEC(".maps");

/* Of a VM, by its process. */
struct vm {
	u64 ran_ns;	/* its vCPUs and I/O threads */
	u64 waited_ns;	/* its vCPUs, for a CPU */
	u64 turns;
	u64 lent;	/* turns that its vCPUs lent one another */
	u64 threads;	/* vCPUs that exist */
	u64 active;	/* threads that run or wait for a CPU */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, struct vm);
} vmf_vms SEC(".maps");

/* ---- remembered ---- */

struct vcpu_key {
	u64 kvm;
	u64 idx;
};

struct vcpu_val {
	u64 vcpu;
	u64 pid;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct vcpu_key);
	__type(value, struct vcpu_val);
} vmf_vcpus SEC(".maps");

struct cpu_ctx {
	u64 started;
	/* Of the thread that runs; its lane is L_NONE when none of ours does. */
	u64 vtime;
	u32 lane;
	u32 kicked;
	/* When each lane last ran here, and for how long its floor then waits. */
	u64 floor_since[NR_LANES];
	u64 floor_gap[NR_LANES];
	u64 rescue_at;
	u64 floor_late;
	u32 floor_turn;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_CPUS);
	__type(key, u32);
	__type(value, struct cpu_ctx);
} vmf_cpus SEC(".maps");

struct task_ctx {
	/* Not 0: a vCPU's thread. */
	u64 vcpu;
	u64 kvm;
	u64 idx;
	u64 dsq;
	u64 started;
	u64 stopped;
	u64 waits_since;
	u64 burst;
	u64 share;
	/* Where it competes, and with which weight. */
	u64 group;
	u64 weight;
	/* Who has to answer the last IPI, by vcpu_idx, its vector and when it was sent. */
	u64 want[MAX_VCPUS / 64];
	u64 sent_at;
	u32 vector;
	u32 kind;
	/* Whose clock its vtime is of, and the lane that it waits in. */
	u32 base;
	u32 lane;
	u32 cpu;
	/* The thread that this one's turn is for at the next dispatch. */
	u32 lend_to;
	bool by_receiver;
	bool borrowed;
	/* Has yielded, and not run since. */
	bool yielded;
	bool woken;
	/* Is among its VM's active threads. */
	bool active;
	/* Competes in its group, as a part of its VM or alone. */
	bool competes;
	bool in_vm;
	bool offline_group;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_ctx);
} vmf_tasks SEC(".maps");

/* Each base lane's virtual time. */
u64 clocks[NR_LANES];

static __always_inline struct task_ctx *ctx_of(struct task_struct *p)
{
	return bpf_task_storage_get(&vmf_tasks, p, 0, 0);
}

static __always_inline struct cpu_ctx *cpu_of(u32 cpu)
{
	return bpf_map_lookup_elem(&vmf_cpus, &cpu);
}

static __always_inline struct vm *vm_of(struct task_struct *p)
{
	u32 tgid = p->tgid;

	return bpf_map_lookup_elem(&vmf_vms, &tgid);
}

static __always_inline void count_many(u32 what, u64 many)
{
	u64 *n = bpf_map_lookup_elem(&vmf_counters, &what);

	if (n)
		*n += many;
}

static __always_inline void count(u32 what)
{
	count_many(what, 1);
}

#endif
