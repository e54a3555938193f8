/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What this scheduler uses of the kernel, written by hand: types with only the members that
 * are read, which libbpf finds in the running kernel (CO-RE), and sched_ext's functions by
 * all names that they have had. No vmlinux.h is needed, and no bpftool.
 */
#ifndef SCX_VMFIRST_KERNEL_H
#define SCX_VMFIRST_KERNEL_H

typedef unsigned char u8, __u8;
typedef unsigned short u16, __u16, __be16, __sum16;
typedef unsigned int u32, __u32, __be32, __wsum;
typedef unsigned long long u64, __u64;
typedef signed char __s8;
typedef short __s16;
typedef int s32, __s32;
typedef long long s64, __s64;
typedef _Bool bool;
enum { false, true };

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_F_NO_PREALLOC = 1,
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1,
};

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
	BPF_MAP_TYPE_CGRP_STORAGE = 32,
};

#define E_NOMEM		12

/* Flags of tasks (include/linux/sched.h) and policies (include/uapi/linux/sched.h). */
#define PF_KTHREAD	0x00200000
#define SCHED_BATCH	3
#define SCHED_IDLE	5

/* sched_ext's constants, the same in 6.12 and 7.3. */
#define SCX_DSQ_LOCAL		0x8000000000000002ULL
#define SCX_DSQ_GLOBAL		0x8000000000000001ULL
#define SCX_ENQ_WAKEUP		1ULL
#define SCX_ENQ_PREEMPT		(1ULL << 32)
#define SCX_KICK_IDLE		1ULL
#define SCX_KICK_PREEMPT	2ULL
#define SCX_DSQ_ITER_REV	(1ULL << 16)
#define SCX_TASK_QUEUED		1

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* Only pointed to. Its type must be whole, or libbpf takes it for another than the kernel's. */
struct cpumask {
	unsigned long bits[1];
};

struct sched_ext_entity {
	u64 slice;
	u64 dsq_vtime;
	u32 weight;
	u32 flags;
};

struct task_struct {
	s32 pid;
	s32 tgid;
	u32 flags;
	u32 policy;
	/* A struct cpumask. Named here, clang would leave that type out. */
	const void *cpus_ptr;
	s32 nr_cpus_allowed;
	u16 migration_disabled;
	struct sched_ext_entity scx;
};

enum scx_exit_kind { SCX_EXIT_NONE };

struct scx_exit_info {
	enum scx_exit_kind kind;
	s64 exit_code;
	const char *reason;
	char *msg;
};

struct scx_init_task_args {
	bool fork;
};

/* The last one is of 7.x. */
struct scx_cgroup_init_args {
	u32 weight;
	bool sched_idle;
};

struct kernfs_node {
	u64 id;
};

struct cgroup {
	s32 level;
	struct kernfs_node *kn;
};

struct scx_exit_task_args {
	bool cancelled;
};

struct kvm;

struct kvm_vcpu_arch {
	void *apic;
	bool preempted_in_kernel;
};

struct kvm_vcpu {
	struct kvm *kvm;
	s32 vcpu_idx;
	bool wants_to_run;
	bool preempted;
	bool ready;
	struct kvm_vcpu_arch arch;
};

struct kvm_lapic {
	struct kvm_vcpu *vcpu;
	bool irr_pending;
	void *regs;
};

struct vmcb_save_area {
	u64 rflags;
};

struct vmcb {
	struct vmcb_save_area save;
};

/* AMD's: a vCPU's flags stay readable while it has no CPU. Intel's do not. */
struct vcpu_svm {
	struct vmcb *vmcb;
};

#pragma clang attribute pop

struct bpf_iter_num {
	u64 opaque[1];
} __attribute__((aligned(8)));

struct bpf_iter_scx_dsq {
	u64 opaque[6];
} __attribute__((aligned(8)));

/* The operations that this scheduler has; libbpf finds their places in the kernel's. */
struct sched_ext_ops {
	s32 (*select_cpu)(struct task_struct *p, s32 prev_cpu, u64 wake_flags);
	void (*enqueue)(struct task_struct *p, u64 enq_flags);
	void (*dispatch)(s32 cpu, struct task_struct *prev);
	void (*runnable)(struct task_struct *p, u64 enq_flags);
	void (*running)(struct task_struct *p);
	void (*stopping)(struct task_struct *p, bool runnable);
	void (*quiescent)(struct task_struct *p, u64 deq_flags);
	bool (*yield)(struct task_struct *from, struct task_struct *to);
	bool (*core_sched_before)(struct task_struct *a, struct task_struct *b);
	s32 (*init_task)(struct task_struct *p, struct scx_init_task_args *args);
	void (*exit_task)(struct task_struct *p, struct scx_exit_task_args *args);
	void (*enable)(struct task_struct *p);
	s32 (*cgroup_init)(struct cgroup *cgrp, struct scx_cgroup_init_args *args);
	void (*cgroup_set_weight)(struct cgroup *cgrp, u32 weight);
	void (*cgroup_set_idle)(struct cgroup *cgrp, bool idle);
	s32 (*init)(void);
	void (*exit)(struct scx_exit_info *info);
	u64 flags;
	u32 timeout_ms;
	char name[128];
};

#endif
