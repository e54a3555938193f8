/* vCPUs made of numbers, and what happens to them: as tests/support/spin.rs. */
static u64 state;

static u64 next(void)
{
	u64 z;

	state += 0x9e3779b97f4a7c15;
	z = (state ^ state >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static struct kvm kvm;
static struct kvm_lapic apics[MAX_VCPUS];
static u32 regs[MAX_VCPUS][1024];
static unsigned long maps[MAX_VCPUS][2];
static const u8 vectors[4] = { 0xfb, 0xfd, 0x31, 0xfb };

static struct kvm_vcpu *world(void)
{
	u64 r = next();
	int i, n = 2 + r % (MAX_VCPUS - 1);

	memset(&kvm, 0, sizeof(kvm));
	memset(regs, 0, sizeof(regs));
	memset(maps, 0, sizeof(maps));
	kvm.online_vcpus = n;
	kvm.last_boosted_vcpu = (r >> 16) % n;
	jiffies = (u32)(r >> 8 & 0x3f) - 32;
	for (i = 0; i < n; i++) {
		struct kvm_vcpu *vcpu = &kvm.vcpus[i];

		apics[i] = (struct kvm_lapic) { vcpu, regs[i], false };
		vcpu->kvm = &kvm;
		vcpu->vcpu_idx = vcpu->vcpu_id = i;
		vcpu->wants_to_run = true;
		vcpu->arch.apic = &apics[i];
		vcpu->arch.ipi_map = maps[i];
	}
	kvm.vcpus[(r >> 32) % n].arch.guest_state_protected = r >> 63;
	return &kvm.vcpus[(r >> 32) % n];
}

static void set_vector(u32 *reg, u8 vector, bool on)
{
	*reg = (*reg & ~(1u << (vector & 31))) | (u32)on << (vector & 31);
}

static void post(struct kvm_vcpu *vcpu, u8 vector, u64 bits)
{
	u32 *page = vcpu->arch.apic->regs;

	set_vector(&page[(APIC_IRR + REG_POS(vector)) / 4], vector, bits & 1);
	set_vector(&page[(APIC_ISR + REG_POS(vector)) / 4], vector, bits & 2);
	set_vector(&vcpu->arch.pir[vector / 32], vector, bits & 4);
}

static void change(struct kvm_vcpu *vcpu, u64 r)
{
	vcpu->ready = r & 1;
	vcpu->preempted = r & 2;
	vcpu->arch.preempted_irqs_off = r & 4;
	vcpu->spin_loop.in_spin_loop = r & 8;
	vcpu->wants_to_run = r & 0x30;
	vcpu->scheduled_out = r & 0x40;
	vcpu->arch.apic->apicv_active = r & 0x80;
	vcpu->arch.preempted_in_kernel = r & 0x100;
	vcpu->blocking = (r & 0x600) == 0x600;
	vcpu->arch.hardware_irq = (r & 0x1800) == 0x1800;
	vcpu->arch.last_host_tsc = r >> 20 & 3;
}

static bool remembered(struct kvm_vcpu *me, u32 idx)
{
	u32 word = me->arch.ipi_record.word;

	if (!(word & IPI_RECORD_VALID))
		return false;
	return word & IPI_RECORD_MULTICAST ? test_bit(idx, me->arch.ipi_map) :
					     ipi_record_receiver(word) == idx;
}

static void show(struct kvm_vcpu *me)
{
	int i;

	come_out(me->arch.ipi_record.word);
	for (i = 0; i < kvm.online_vcpus; i++)
		come_out(remembered(me, i));
}

static void look(struct kvm_vcpu *me, bool kernel_mode)
{
	struct kvm_dy_receivers found = {};

	if (kvm_arch_dy_awaited(me, kernel_mode))
		kvm_arch_dy_receivers(me, &found);
	come_out(found.pending ? found.pending->vcpu_idx + 1 : 0);
	come_out(found.in_handler ? found.in_handler->vcpu_idx + 1 : 0);
	come_out(found.running);
}

static void search(struct kvm_vcpu *me, bool kernel_mode)
{
	scheduler = next();
	come_out(kvm_arch_dy_awaited(me, kernel_mode) &&
		 kvm_vcpu_yield_to_receiver(me));
}

#ifdef SPIN_EXIT
static void spin_exit(struct kvm_vcpu *me, bool kernel_mode)
{
	int i;

	scheduler = next();
	kvm_vcpu_on_spin(me, kernel_mode);
	come_out(kvm.last_boosted_vcpu);
	for (i = 0; i < kvm.online_vcpus; i++)
		if (&kvm.vcpus[i] != me)
			come_out(kvm.vcpus[i].spin_loop.dy_eligible);
}
#endif

static u64 play(u64 seed, void (*spin)(struct kvm_vcpu *, bool))
{
	struct kvm_vcpu *me;
	int step, i;

	state = seed;
	outcome = 0;
	me = world();
	for (step = 0; step < 48; step++) {
		u64 r = next();
		struct kvm_vcpu *vcpu = &kvm.vcpus[(r >> 8) % kvm.online_vcpus];
		u8 vector = vectors[r >> 16 & 3];

		switch (r & 7) {
		case 0:
			kvm_ipi_record(me, vcpu, vector | (r >> 20 & 15 ? 0 : APIC_INT_LEVELTRIG));
			post(vcpu, vector, r >> 24);
			break;
		case 1:
			for (i = 0; i < (r >> 20 & 31); i++) {
				vcpu = &kvm.vcpus[((r >> 8) + i) % kvm.online_vcpus];
				kvm_ipi_record(me, vcpu, vector);
				post(vcpu, vector, r >> 32 >> (i & 7));
			}
			break;
		case 2:
			jiffies += r >> 20 & 7;
			break;
		case 3:
			post(vcpu, vector, r >> 24);
			break;
		case 4:
			change(vcpu, r >> 24);
			break;
		case 5:
			if (!(r >> 20 & 7))
				kvm_ipi_record_clear(me);
			else
				for (i = 0; i < kvm.online_vcpus; i++)
					change(&kvm.vcpus[i], next());
			break;
		default:
			spin(me, r >> 20 & 7);
		}
		show(me);
	}
	return outcome;
}
