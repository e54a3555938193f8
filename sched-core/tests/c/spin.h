/* What KVM's functions of a spin exit need: the fields that they use, and bitmaps. */
#include <stddef.h>
#include <stdlib.h>

#define __always_inline		inline
#define __weak
#define CONFIG_HAVE_KVM_CPU_RELAX_INTERCEPT
#define EXPORT_SYMBOL_GPL(x)
#define EXPORT_SYMBOL_IF_KUNIT(x)
#define KUNIT_STATIC_STUB_REDIRECT(...)
#define READ_ONCE(x)		(x)
#define WRITE_ONCE(x, v)	((x) = (v))
#define BIT(n)			(1UL << (n))
#define HZ			250
#define DIV_ROUND_UP(a, b)	(((a) + (b) - 1) / (b))
#define APIC_DM_FIXED		0
#define APIC_MODE_MASK		0x700
#define APIC_VECTOR_MASK	0xff
#define APIC_INT_LEVELTRIG	0x8000
#define APIC_IRR		0x200
#define APIC_ISR		0x100
#define VEC_POS(v)		((v) & 31)
#define REG_POS(v)		(((v) >> 5) << 4)
#define MAX_VCPUS		80

enum kvm_yield_reason {
	KVM_YIELD_IPI, KVM_YIELD_ANSWER, KVM_YIELD_IRQ, KVM_YIELD_KERNEL, KVM_YIELD_RELAXED,
};

struct kvm_ipi_record { u32 word, sent, seq, asked; };
struct kvm_vcpu;
struct kvm_lapic { struct kvm_vcpu *vcpu; void *regs; bool apicv_active; };
struct kvm_vcpu {
	struct kvm *kvm;
	int vcpu_id, vcpu_idx;
	bool ready, preempted, wants_to_run, scheduled_out, blocking;
	struct { bool in_spin_loop, dy_eligible; } spin_loop;
	struct {
		struct kvm_lapic *apic;
		struct kvm_ipi_record ipi_record;
		unsigned long *ipi_map;
		bool preempted_irqs_off, preempted_in_kernel, guest_state_protected;
		bool hardware_irq;
		u64 last_host_tsc;
		u32 pir[8];
	} arch;
};
struct kvm {
	int online_vcpus, last_boosted_vcpu;
	struct kvm_vcpu vcpus[MAX_VCPUS];
};
struct kvm_dy_receivers {
	struct kvm_vcpu *pending, *in_handler;
	bool running;
};

static unsigned long jiffies;
static bool kvm_ipi_tracking = true;
static bool kvm_ipi_eoi;

#define noinline		__attribute__((noinline))
#define need_resched()		false
#define atomic_read(x)		(*(x))
#define kvm_x86_call(x)		test_##x
#define trace_kvm_dy_receivers(...)
#define trace_kvm_dy_receivers_enabled()	false

static bool test_dy_pir_test(struct kvm_vcpu *vcpu, u8 vector)
{
	return vcpu->arch.pir[vector / 32] >> (vector % 32) & 1;
}

static struct kvm_vcpu *kvm_get_vcpu(struct kvm *kvm, int i)
{
	return i < kvm->online_vcpus ? &kvm->vcpus[i] : NULL;
}

static void bitmap_zero(unsigned long *map, unsigned int bits)
{
	memset(map, 0, DIV_ROUND_UP(bits, 64) * 8);
}

static void __set_bit(unsigned int bit, unsigned long *map) { map[bit / 64] |= BIT(bit % 64); }
static void __clear_bit(unsigned int bit, unsigned long *map) { map[bit / 64] &= ~BIT(bit % 64); }
static bool test_bit(unsigned int bit, unsigned long *map) { return map[bit / 64] >> (bit % 64) & 1; }

static unsigned int find_next_bit(unsigned long *map, unsigned int size, unsigned int from)
{
	while (from < size && !test_bit(from, map))
		from++;
	return from < size ? from : size;
}

/* The set bit at @from or after it; past the last one, the first up to before @start. */
static unsigned int wrap_next(unsigned long *map, unsigned int size, unsigned int start,
			      unsigned int from)
{
	unsigned int bit;

	if (from >= start) {
		bit = find_next_bit(map, size, from);
		if (bit < size)
			return bit;
		from = 0;
	}
	bit = find_next_bit(map, start, from);
	return bit < start ? bit : size;
}

/* After a wrap the bit is below @start; that after the last one is @start itself. */
#define for_each_set_bit_wrap(bit, map, size, first)					\
	for ((bit) = wrap_next(map, size, first, first);				\
	     (bit) < (size);								\
	     (bit) = (bit) + 1 == (first) ? (size) : wrap_next(map, size, first, (bit) + 1))

/* For kvm_vcpu_on_spin(). */
#define kvm_for_each_vcpu(i, vcpu, kvm)		\
	for (i = 0; i < (kvm)->online_vcpus && (vcpu = &(kvm)->vcpus[i], 1); i++)
#define kvm_vcpu_set_in_spin_loop(vcpu, val)	((vcpu)->spin_loop.in_spin_loop = (val))
#define kvm_vcpu_set_dy_eligible(vcpu, val)	((vcpu)->spin_loop.dy_eligible = (val))
#define kvm_vcpu_is_blocking(vcpu)		((vcpu)->blocking)
#define vcpu_dy_runnable(vcpu)			false
#define kvm_arch_dy_has_pending_interrupt(vcpu)	((vcpu)->arch.hardware_irq)
#define kvm_arch_vcpu_preempted_in_kernel(vcpu)	((vcpu)->arch.preempted_in_kernel)
#define kvm_yield_stats_spin_begin(me)		((void)0)
#define kvm_yield_stats_spin_end(me)		((void)0)
#define kvm_yield_stats_served(me)		((void)0)

/* What came out so far, and what the scheduler makes of yields: two bits a target. */
static u64 outcome, scheduler;

static void come_out(u64 value)
{
	outcome = (outcome ^ value) * 0x100000001b3;
}

static int kvm_vcpu_directed_yield(struct kvm_vcpu *me, struct kvm_vcpu *target,
				   enum kvm_yield_reason reason)
{
	u64 result = scheduler >> (target->vcpu_idx % 32 * 2) & 3;

	come_out(target->vcpu_idx * 8 + reason);
	return result == 0 ? 1 : result == 1 ? 0 : -3;
}
