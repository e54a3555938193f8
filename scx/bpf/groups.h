/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Control groups: what a thread's share is worth below weights at every level of the tree.
 *
 * In a group compete its active children: groups, threads, and in mode vm-first VMs, which are
 * one competitor with all threads that they have in the group. A group knows the sum of their
 * weights, and is a competitor of its own parent's as long as it has any. A thread's share is
 * its part of that sum, of the group's part of the parent's sum, and so on; on the first level
 * a group has its weight.
 */
#ifndef SCX_VMFIRST_GROUPS_H
#define SCX_VMFIRST_GROUPS_H

/* Deeper ones count as if they were at this depth. libvirt has 5 levels, Kubernetes 5. */
#define MAX_DEPTH	12
/* A share is computed anew when it is older. */
#define SHARE_AGE	4000000ULL
/* Of a VM among others in its group. */
#define VM_WEIGHT	100

struct group {
	u64 weight;
	u64 active;	/* competitors in it */
	u64 sum;	/* of their weights */
	u64 added;	/* what the parent's sum has of it */
	u64 share;
	u64 share_at;
	u32 idle;	/* its own cpu.idle */
	u32 offline;	/* its own, or that of one above */
};

struct {
	__uint(type, BPF_MAP_TYPE_CGRP_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct group);
} vmf_groups SEC(".maps");

/* A VM's threads in a group. */
struct part_key {
	u64 group;
	u64 tgid;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct part_key);
	__type(value, u64);
} vmf_parts SEC(".maps");

static __always_inline struct group *group_of(struct cgroup *cgrp)
{
	return bpf_cgrp_storage_get(&vmf_groups, cgrp, 0, 0);
}

/* A competitor comes (or changes its weight by `more`, if it is `none`), or goes. */
static void change_sums(struct cgroup *cgrp, s64 more, s64 competitors)
{
	s32 level = cgrp->level, i;

	bpf_for(i, 0, MAX_DEPTH) {
		struct cgroup *at = level - i >= 0 ? bpf_cgroup_ancestor(cgrp, level - i) : 0;
		struct group *group;
		u64 was, now;

		if (!at)
			break;
		group = group_of(at);
		bpf_cgroup_release(at);
		if (!group)
			break;
		__sync_fetch_and_add(&group->sum, more);
		was = __sync_fetch_and_add(&group->active, competitors);
		now = was + competitors;
		/* For the one above it changes only with the first and the last. */
		if (!was == !now)
			break;
		more = now ? group->weight : 0;
		more -= __sync_lock_test_and_set(&group->added, more);
		competitors = now ? 1 : -1;
	}
}

/* A group's share, from the root down. */
static void compute_share(struct cgroup *cgrp, struct group *to)
{
	u64 share = SCX_SHARE_ONE, sum = 0;
	u32 offline = 0;
	s32 level;

	bpf_for(level, 1, MAX_DEPTH) {
		struct cgroup *at = level <= cgrp->level ? bpf_cgroup_ancestor(cgrp, level) : 0;
		struct group *group;

		if (!at)
			break;
		group = group_of(at);
		bpf_cgroup_release(at);
		if (!group)
			break;
		share = sum ? scx_split(share, group->weight, sum) : group->weight << 10;
		sum = group->sum;
		offline |= group->idle;
	}
	to->share = share;
	to->offline = offline;
}

/* One more thread of a VM, or one less, in the group; whether that is the first, or the last. */
static bool change_part(struct task_struct *p, struct task_ctx *tc, s64 more)
{
	struct part_key key = { .group = tc->group, .tgid = p->tgid };
	u64 none = 0, was, *active;

	bpf_map_update_elem(&vmf_parts, &key, &none, BPF_NOEXIST);
	active = bpf_map_lookup_elem(&vmf_parts, &key);
	if (!active)
		return false;
	was = __sync_fetch_and_add(active, more);
	return more > 0 ? !was : was == 1;
}

/* The thread runs or waits from now on. */
static void compete(struct task_struct *p, struct task_ctx *tc)
{
	struct cgroup *cgrp;

	tc->competes = true;
	/* A kernel without CONFIG_EXT_GROUP_SCHED: all compete in the root. */
	if (!bpf_ksym_exists(scx_bpf_task_cgroup))
		return;
	cgrp = scx_bpf_task_cgroup(p);
	tc->group = BPF_CORE_READ(cgrp, kn, id);
	tc->in_vm = vm_first && vm_of(p);
	tc->weight = tc->in_vm ? VM_WEIGHT : p->scx.weight;
	if (!tc->in_vm || change_part(p, tc, 1))
		change_sums(cgrp, tc->weight, 1);
	bpf_cgroup_release(cgrp);
}

/* It sleeps, or moves to another group. */
static void withdraw(struct task_struct *p, struct task_ctx *tc)
{
	struct cgroup *cgrp;

	tc->competes = false;
	if (!bpf_ksym_exists(scx_bpf_task_cgroup))
		return;
	cgrp = scx_bpf_task_cgroup(p);
	if (!tc->in_vm || change_part(p, tc, -1))
		change_sums(cgrp, -(s64)tc->weight, -1);
	bpf_cgroup_release(cgrp);
}

/* What the thread has of its group. */
static u64 share_in(struct cgroup *cgrp, struct task_struct *p, struct task_ctx *tc)
{
	u64 weight = tc->in_vm ? VM_WEIGHT : p->scx.weight, share = weight << 10;
	struct part_key key = { .tgid = p->tgid };
	struct group *group = group_of(cgrp);
	u64 now = bpf_ktime_get_ns(), *active;

	tc->offline_group = false;
	if (group && cgrp->level > 0) {
		if (now - group->share_at > SHARE_AGE) {
			group->share_at = now;
			compute_share(cgrp, group);
		}
		share = scx_split(group->share, weight, group->sum);
		tc->offline_group = group->offline;
	}
	if (!tc->in_vm)
		return share;
	key.group = tc->group;
	active = bpf_map_lookup_elem(&vmf_parts, &key);
	return scx_split(share, 1, active ? *active : 1);
}

/* What it has of all. */
static u64 share_of(struct task_struct *p, struct task_ctx *tc)
{
	struct cgroup *cgrp;
	u64 share;

	if (!bpf_ksym_exists(scx_bpf_task_cgroup))
		return (u64)p->scx.weight << 10;
	cgrp = scx_bpf_task_cgroup(p);
	share = share_in(cgrp, p, tc);
	bpf_cgroup_release(cgrp);
	return share;
}

SEC("struct_ops.s/vmfirst_cgroup_init")
s32 BPF_PROG(vmfirst_cgroup_init, struct cgroup *cgrp, struct scx_cgroup_init_args *args)
{
	struct group *group = bpf_cgrp_storage_get(&vmf_groups, cgrp, 0,
						   BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!group)
		return -E_NOMEM;
	group->weight = args->weight;
	if (bpf_core_field_exists(args->sched_idle))
		group->idle = args->sched_idle;
	return 0;
}

SEC("struct_ops/vmfirst_cgroup_set_weight")
void BPF_PROG(vmfirst_cgroup_set_weight, struct cgroup *cgrp, u32 weight)
{
	struct group *group = group_of(cgrp);
	struct cgroup *parent;
	s64 more;

	if (!group)
		return;
	group->weight = weight;
	group->share_at = 0;
	if (!group->active || cgrp->level < 1)
		return;
	more = weight - (s64)__sync_lock_test_and_set(&group->added, weight);
	parent = bpf_cgroup_ancestor(cgrp, cgrp->level - 1);
	if (!parent)
		return;
	change_sums(parent, more, 0);
	bpf_cgroup_release(parent);
}

/* 7.x tells; 6.12 does not. */
SEC("struct_ops/vmfirst_cgroup_set_idle")
void BPF_PROG(vmfirst_cgroup_set_idle, struct cgroup *cgrp, bool idle)
{
	struct group *group = group_of(cgrp);

	if (!group)
		return;
	group->idle = idle;
	group->share_at = 0;
}

#endif
