/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * KVM, as seen from outside: which thread is which vCPU, whom a vCPU has sent its last IPI
 * to, and that a vCPU spins. All probes only read KVM. Its functions are no API: the loader
 * leaves out what a kernel does not have, and says what is lost.
 *
 * vCPUs are read by probe_read, which a pointer that is stale can't hurt: a wrong answer is a
 * hint that misleads, no more.
 */
#ifndef SCX_VMFIRST_KVM_H
#define SCX_VMFIRST_KVM_H

#define APIC_ISR	0x100
#define APIC_IRR	0x200
#define ICR_MODE	0x700
#define X86_FLAGS_IF	0x200

static void join_vm(struct task_struct *p, struct task_ctx *tc)
{
	u32 tgid = p->tgid;
	struct vm none = {}, *vm;

	bpf_map_update_elem(&vmf_vms, &tgid, &none, BPF_NOEXIST);
	vm = bpf_map_lookup_elem(&vmf_vms, &tgid);
	if (!vm)
		return;
	__sync_fetch_and_add(&vm->threads, 1);
	if (!tc->active)
		__sync_fetch_and_add(&vm->active, 1);
	tc->active = true;
}

static void leave_vm(struct task_struct *p, struct task_ctx *tc)
{
	struct vcpu_key key = { .kvm = tc->kvm, .idx = tc->idx };
	struct vm *vm = vm_of(p);
	u32 tgid = p->tgid;

	bpf_map_delete_elem(&vmf_vcpus, &key);
	if (!vm)
		return;
	if (tc->active)
		__sync_fetch_and_sub(&vm->active, 1);
	tc->active = false;
	if (__sync_fetch_and_sub(&vm->threads, 1) == 1)
		bpf_map_delete_elem(&vmf_vms, &tgid);
}

/* The thread runs KVM_RUN: it is a vCPU, of whatever VMM. */
SEC("fentry/kvm_arch_vcpu_load")
int BPF_PROG(on_vcpu_load, struct kvm_vcpu *vcpu, int cpu)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct task_ctx *tc = ctx_of(p);
	struct vcpu_key key = {};
	struct vcpu_val val = {};

	if (!tc || tc->vcpu == (u64)vcpu || !vcpu->wants_to_run)
		return 0;
	if (tc->vcpu)
		leave_vm(p, tc);
	key.kvm = (u64)vcpu->kvm;
	key.idx = (u32)vcpu->vcpu_idx;
	val.vcpu = (u64)vcpu;
	val.pid = p->pid;
	bpf_map_update_elem(&vmf_vcpus, &key, &val, BPF_ANY);
	tc->kvm = key.kvm;
	tc->idx = key.idx;
	tc->sent_at = 0;
	tc->vcpu = (u64)vcpu;
	join_vm(p, tc);
	count(C_VCPUS);
	return 0;
}

/* A vCPU sends an IPI: whoever accepts that vector next, in the same thread, is a receiver. */
SEC("tp_btf/kvm_apic_ipi")
int BPF_PROG(on_ipi, u32 icr_low, u32 dest)
{
	struct task_ctx *tc = ctx_of(bpf_get_current_task_btf());
	int i;

	if (!tc || !tc->vcpu || (icr_low & ICR_MODE))
		return 0;
	for (i = 0; i < MAX_VCPUS / 64; i++)
		tc->want[i] = 0;
	tc->vector = icr_low & 0xff;
	tc->sent_at = bpf_ktime_get_ns();
	return 0;
}

SEC("fentry/__apic_accept_irq")
int BPF_PROG(on_accept, struct kvm_lapic *apic, int mode, int vector, int level, int trigger)
{
	struct task_ctx *tc = ctx_of(bpf_get_current_task_btf());
	struct kvm_vcpu *to;
	u32 idx;

	if (!tc || !tc->vcpu || mode || trigger || vector != tc->vector || !tc->sent_at)
		return 0;
	to = BPF_CORE_READ(apic, vcpu);
	idx = BPF_CORE_READ(to, vcpu_idx);
	if ((u64)to == tc->vcpu || (u64)BPF_CORE_READ(to, kvm) != tc->kvm || idx >= MAX_VCPUS)
		return 0;
	tc->want[(idx >> 6) & 3] |= 1ULL << (idx & 63);
	count(C_IPI);
	return 0;
}

enum answer { A_DONE, A_MAY_BE, A_PENDING, A_RUNS };

/*
 * Whether a vCPU still has the interrupt to take or to handle, by its own APIC's page: no
 * one else has to be told when it is done. Linux acknowledges first and runs the handler
 * then, so one that lost its CPU in the guest's kernel may be in there.
 */
static enum answer answer_of(struct kvm_vcpu *vcpu, u32 vector)
{
	struct kvm_lapic *apic = BPF_CORE_READ(vcpu, arch.apic);
	void *regs = BPF_CORE_READ(apic, regs) + ((vector & 0xff) >> 5) * 16;
	u32 irr = 0, isr = 0, bit = 1U << (vector & 31);

	bpf_probe_read_kernel(&irr, sizeof(irr), regs + APIC_IRR);
	bpf_probe_read_kernel(&isr, sizeof(isr), regs + APIC_ISR);
	if ((irr | isr) & bit)
		return BPF_CORE_READ(vcpu, ready) ? A_PENDING : A_RUNS;
	if (BPF_CORE_READ(vcpu, preempted) && BPF_CORE_READ(vcpu, arch.preempted_in_kernel))
		return A_MAY_BE;
	return A_DONE;
}

/* Of the receivers that have not answered one that has no CPU; who has answered is forgotten. */
static u32 find_receiver(struct task_ctx *tc)
{
	u32 best = 0, i;

	bpf_for(i, 0, MAX_VCPUS) {
		u64 *want = &tc->want[(i >> 6) & 3];
		struct vcpu_key key = { .kvm = tc->kvm, .idx = i };
		struct vcpu_val *val;
		enum answer answer;

		if (!(*want & (1ULL << (i & 63))))
			continue;
		val = bpf_map_lookup_elem(&vmf_vcpus, &key);
		if (!val)
			continue;
		answer = answer_of((void *)val->vcpu, tc->vector);
		if (answer == A_PENDING)
			return val->pid;
		if (answer == A_MAY_BE && !best)
			best = val->pid;
		if (answer == A_DONE)
			*want &= ~(1ULL << (i & 63));
	}
	return best;
}

static __always_inline bool has_sent(struct task_ctx *tc)
{
	if (!(tc->want[0] | tc->want[1] | tc->want[2] | tc->want[3]))
		return false;
	return bpf_ktime_get_ns() - tc->sent_at <= window_ns;
}

SEC("fentry/kvm_vcpu_on_spin")
int BPF_PROG(on_spin, struct kvm_vcpu *me, bool in_kernel)
{
	struct task_ctx *tc = ctx_of(bpf_get_current_task_btf());

	count(C_SPIN);
	if (!tc || !tc->vcpu || !receivers)
		return 0;
	tc->lend_to = 0;
	tc->by_receiver = false;
	if (!has_sent(tc))
		return 0;
	count(C_SENDER);
	tc->lend_to = find_receiver(tc);
	tc->by_receiver = tc->lend_to != 0;
	return 0;
}

/* KVM has found nobody to yield to: the receiver is to run all the same. */
SEC("fexit/kvm_vcpu_on_spin")
int BPF_PROG(after_spin, struct kvm_vcpu *me, bool in_kernel)
{
	struct task_ctx *tc = ctx_of(bpf_get_current_task_btf());

	if (!tc || !tc->by_receiver || !tc->lend_to || !lend)
		return 0;
	count(C_KICK);
	tc->yielded = true;
	scx_bpf_kick_cpu(bpf_get_smp_processor_id(), SCX_KICK_PREEMPT);
	return 0;
}

/*
 * How likely it is that others wait for a vCPU that has no CPU: an interrupt to take, then
 * interrupts off, then the guest's kernel, then anything else.
 */
static int rank_of(struct task_ctx *tc)
{
	struct kvm_vcpu *vcpu = (void *)tc->vcpu;
	struct kvm_lapic *apic = BPF_CORE_READ(vcpu, arch.apic);
	struct vcpu_svm *svm = (void *)vcpu;

	if (apic && BPF_CORE_READ(apic, irr_pending))
		return 4;
	if (bpf_core_field_exists(struct vcpu_svm, vmcb) &&
	    !(BPF_CORE_READ(svm, vmcb, save.rflags) & X86_FLAGS_IF))
		return 3;
	if (BPF_CORE_READ(vcpu, arch.preempted_in_kernel))
		return 2;
	return 1;
}

#endif
