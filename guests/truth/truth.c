/*
 * A guest without an operating system that knows who waits for whom.
 *
 * Its vCPUs compute, and now and then one waits for another in one of five ways:
 *
 *   truth-call   an interrupt to one vCPU, whose handler answers
 *   truth-all    the same to all vCPUs at once, as a TLB shootdown does
 *   truth-wake   an interrupt to one vCPU, which answers after it, from its loop
 *   truth-lock   a spinlock, held with interrupts off
 *
 * or calls a set of vCPUs that isn't all of the others, as Linux does it in each mode of
 * the APIC; the name tells how many, and how:
 *
 *   truth-2-xapic   an interrupt to each, by MMIO
 *   truth-2-x2apic  an interrupt to each, by MSR
 *   truth-2-cluster an interrupt to each cluster, by MSR and logical ids
 *
 * and the same for 3, half (N/2) and but2 (N-2).
 *
 * After the window it tells each wait on the console, in TRUTH lines,
 * all in hexadecimal: the TSC at the window's begin, then for each wait who waited,
 * for whom, from when on in TSC ticks from there, and how long. The host compares
 * that with whom it yielded to. guests/init/src/protocol.rs has the
 * other words.
 */
#include <stdint.h>
#include "truth.h"

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint8_t u8;

#define MSR_APIC_BASE	0x1b
#define MSR_GS_BASE	0xc0000101
#define MSR_KVM_CLOCK	0x4b564d01
#define X2APIC_ID	0x802
#define X2APIC_EOI	0x80b
#define X2APIC_SPURIOUS	0x80f
#define X2APIC_ICR	0x830
#define ICR_INIT	0x4500
#define ICR_STARTUP	0x4600
#define ICR_ALL_BUT_SELF 0xc0000
#define ICR_LOGICAL	0x800
/* As registers in memory. */
#define XAPIC		0xfee00000ull
#define XAPIC_ID	0x20
#define XAPIC_EOI	0xb0
#define XAPIC_SPURIOUS	0xf0
#define XAPIC_ICR	0x300
#define XAPIC_ICR2	0x310
#define PAGE_WRITABLE	0x3
#define PAGE_LARGE	0x80
#define PAGE_UNCACHED	0x10

#define VECTOR_CALL	0x40
#define VECTOR_WAKE	0x41
#define VECTOR_SPURIOUS	0xff

#define COM1		0x3f8
#define PM1_CONTROL	0x604
#define POWER_OFF	(1 << 13 | 5 << 10)

/* Nobody holds the lock. */
#define NOBODY		MAX_CPUS
/* Steps of computing between two waits at most, and with the lock held. */
#define THINK		60000
#define HOLD		5000
/* A vCPU looks this often, in steps, whether it is wanted. */
#define LOOK		4000
/* Waits that a vCPU keeps, and that a line tells. */
#define WAITS		4096
#define A_LINE		32

struct wait {
	u64 begin, end;
	u32 target;
};

struct cpu {
	u32 id;			/* first: at %gs:0 */
	u64 random;
	volatile u64 called;	/* by whom, a bit each */
	volatile u64 wanted;	/* by whom, a bit each */
	volatile u64 answered[MAX_CPUS];	/* when, by each of those waited for */
	u64 operations;
	u32 waits, dropped;
	struct wait wait[WAITS];
} __attribute__((aligned(64)));

enum kind { CALL, ALL, SOME, WAKE, LOCK };
enum mode { X2APIC, XAPIC_MODE, CLUSTER };

u8 stacks[MAX_CPUS][STACK_SIZE] __attribute__((aligned(16)));
volatile u32 started;
static struct cpu cpus[MAX_CPUS];
static u32 nr_cpus;
static enum kind kind;
static enum mode mode;
/* To how many a call of some goes. */
static u32 some;
static volatile u32 ready, stop, ended;
/* The TSC at the order, and when the window is from then on, in ns. */
static u64 ordered, begin_ns, end_ns;
/* The window's begin, once it has come, and its length as measured. */
static volatile u64 window_begin = ~0ull;
static u64 window_ns;
static volatile u32 lock, holder = NOBODY;

extern u8 trampoline[], trampoline_end[];
extern u32 trampoline_cr3;

static inline u64 tsc(void)
{
	u32 low, high;

	asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high) :: "memory");
	return (u64)high << 32 | low;
}

static inline void write_msr(u32 msr, u64 value)
{
	asm volatile("wrmsr" :: "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

static inline u64 read_msr(u32 msr)
{
	u32 low, high;

	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (u64)high << 32 | low;
}

static inline void out8(uint16_t port, u8 value)
{
	asm volatile("outb %0, %1" :: "a"(value), "Nd"(port));
}

static inline u8 in8(uint16_t port)
{
	u8 value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline void pause(void)
{
	asm volatile("pause" ::: "memory");
}

static inline struct cpu *me(void)
{
	u32 id;

	asm volatile("movl %%gs:0, %0" : "=r"(id));
	return &cpus[id];
}

static inline volatile u32 *xapic(u32 reg)
{
	return (volatile u32 *)(XAPIC + reg);
}

static void end_of_interrupt(void)
{
	if (mode == XAPIC_MODE)
		*xapic(XAPIC_EOI) = 0;
	else
		write_msr(X2APIC_EOI, 0);
}

/* One interrupt; @to is an id, or a logical one. */
static void send(u32 to, u32 low)
{
	if (mode == XAPIC_MODE) {
		*xapic(XAPIC_ICR2) = to << 24;
		*xapic(XAPIC_ICR) = low;
	} else {
		write_msr(X2APIC_ICR, (u64)to << 32 | low);
	}
}

/* An interrupt to each of @targets, or to each cluster of 16 with some of them. */
static void send_to(u64 targets, u32 vector)
{
	u32 cluster;

	if (mode != CLUSTER) {
		for (; targets; targets &= targets - 1)
			send(__builtin_ctzll(targets), vector);
		return;
	}
	for (cluster = 0; cluster < 4; cluster++) {
		u32 members = targets >> 16 * cluster & 0xffff;

		if (members)
			send(cluster << 16 | members, ICR_LOGICAL | vector);
	}
}

/* The guest's clock, as KVM keeps it: Documentation/virt/kvm/x86/msr.rst. */
static volatile struct {
	u32 version, pad;
	u64 tsc, system_ns;
	u32 multiplier;
	int8_t shift;
	u8 flags, pad2[2];
} clock __attribute__((aligned(64)));

static u64 to_ns(u64 ticks)
{
	ticks = clock.shift < 0 ? ticks >> -clock.shift : ticks << clock.shift;
	return (u64)((unsigned __int128)ticks * clock.multiplier >> 32);
}

static u64 since_ns(u64 begin)
{
	return to_ns(tsc() - begin);
}

static void print(const char *text)
{
	while (*text)
		out8(COM1, *text++);
}

static void print_number(u64 value, u32 base)
{
	char digits[21], *at = digits + 20;

	*at = 0;
	do {
		*--at = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	print(at);
}

static void power_off(void)
{
	asm volatile("outw %0, %1" :: "a"((uint16_t)POWER_OFF), "Nd"((uint16_t)PM1_CONTROL));
	for (;;)
		asm volatile("cli; hlt");
}

static void fail(const char *why)
{
	print("VMFIRST FAILED ");
	print(why);
	print("\n");
	power_off();
}

struct frame;

__attribute__((interrupt)) static void on_call(struct frame *frame)
{
	struct cpu *cpu = me();
	u64 callers = __atomic_exchange_n(&cpu->called, 0, __ATOMIC_SEQ_CST);

	(void)frame;
	for (; callers; callers &= callers - 1)
		cpus[__builtin_ctzll(callers)].answered[cpu->id] = tsc();
	end_of_interrupt();
}

__attribute__((interrupt)) static void on_wake(struct frame *frame)
{
	(void)frame;
	end_of_interrupt();
}

__attribute__((interrupt)) static void on_spurious(struct frame *frame)
{
	(void)frame;
}

/* Answers those who have woken this vCPU. */
static void answer(struct cpu *cpu)
{
	u64 wakers = __atomic_exchange_n(&cpu->wanted, 0, __ATOMIC_SEQ_CST);

	for (; wakers; wakers &= wakers - 1)
		cpus[__builtin_ctzll(wakers)].answered[cpu->id] = tsc();
}

static void compute(u32 steps)
{
	u64 value = steps;

	while (steps--)
		asm volatile("imul %0, %0" : "+r"(value));
}

/* xorshift64 (Marsaglia 2003). */
static u32 random_below(struct cpu *cpu, u32 limit)
{
	cpu->random ^= cpu->random << 13;
	cpu->random ^= cpu->random >> 7;
	cpu->random ^= cpu->random << 17;
	return (u32)(cpu->random >> 32) % limit;
}

/* Keeps a wait of the window. */
static void keep(struct cpu *cpu, u32 target, u64 begin, u64 end)
{
	if (end <= begin || begin < window_begin)
		return;
	if (cpu->waits == WAITS) {
		cpu->dropped++;
		return;
	}
	cpu->wait[cpu->waits++] = (struct wait){ begin, end, target };
}

/* Interrupts the vCPUs in @targets and waits until each has answered. */
static void call(struct cpu *cpu, u64 targets)
{
	u32 vector = kind == WAKE ? VECTOR_WAKE : VECTOR_CALL;
	u64 mine = 1ull << cpu->id, begin, left;

	for (left = targets; left; left &= left - 1) {
		u32 target = __builtin_ctzll(left);
		struct cpu *it = &cpus[target];

		cpu->answered[target] = 0;
		__atomic_fetch_or(kind == WAKE ? &it->wanted : &it->called, mine,
				  __ATOMIC_SEQ_CST);
	}
	begin = tsc();
	if (kind == ALL)
		send(0, ICR_ALL_BUT_SELF | vector);
	else
		send_to(targets, vector);
	for (left = targets; left;) {
		u32 target = __builtin_ctzll(left);

		if (cpu->answered[target]) {
			keep(cpu, target, begin, cpu->answered[target]);
			left &= left - 1;
			continue;
		}
		if (kind == WAKE)
			answer(cpu);
		pause();
	}
}

/* Takes the lock, computes, and gives it back, all with interrupts off. */
static void hold(struct cpu *cpu)
{
	u32 seen = NOBODY, now;
	u64 since = 0;

	asm volatile("cli" ::: "memory");
	while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE)) {
		while (lock) {
			now = holder;
			if (now != seen) {
				u64 at = tsc();

				if (seen != NOBODY)
					keep(cpu, seen, since, at);
				seen = now;
				since = at;
			}
			pause();
		}
	}
	if (seen != NOBODY)
		keep(cpu, seen, since, tsc());
	holder = cpu->id;
	compute(HOLD);
	holder = NOBODY;
	__atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
	asm volatile("sti" ::: "memory");
}

/* The first vCPU looks between its waits what time it is. */
static void look_at_clock(void)
{
	u64 now = since_ns(ordered);

	if (now >= begin_ns && window_begin == ~0ull)
		window_begin = tsc();
	if (now >= end_ns && !stop) {
		window_ns = since_ns(window_begin);
		stop = 1;
	}
}

/* @count of the other vCPUs, never all of them. */
static u64 choose(struct cpu *cpu, u32 count)
{
	u64 chosen = 0;

	while (count) {
		u64 one = 1ull << random_below(cpu, nr_cpus);

		if (one == 1ull << cpu->id || (chosen & one))
			continue;
		chosen |= one;
		count--;
	}
	return chosen;
}

static void work(struct cpu *cpu)
{
	u64 all = nr_cpus == 64 ? ~0ull : (1ull << nr_cpus) - 1;
	u64 others = all & ~(1ull << cpu->id);
	u32 think, target;

	while (!stop) {
		if (!cpu->id)
			look_at_clock();
		for (think = random_below(cpu, THINK); think > LOOK; think -= LOOK) {
			compute(LOOK);
			answer(cpu);
		}
		target = (cpu->id + 1 + random_below(cpu, nr_cpus - 1)) % nr_cpus;
		if (kind == LOCK)
			hold(cpu);
		else if (kind == SOME)
			call(cpu, choose(cpu, some));
		else
			call(cpu, kind == ALL ? others : 1ull << target);
		if (tsc() >= window_begin)
			cpu->operations++;
	}
	/* Others may still wait for this one. */
	__atomic_fetch_add(&ended, 1, __ATOMIC_SEQ_CST);
	while (ended < nr_cpus) {
		answer(cpu);
		pause();
	}
}

static struct {
	uint16_t offset_low, selector;
	u8 stack, type;
	uint16_t offset_mid;
	u32 offset_high, zero;
} idt[256] __attribute__((aligned(16)));

static void gate(u32 vector, void *handler)
{
	u64 at = (u64)handler;

	idt[vector].offset_low = at;
	idt[vector].selector = CODE;
	idt[vector].type = 0x8e;	/* interrupt gate, present */
	idt[vector].offset_mid = at >> 16;
	idt[vector].offset_high = at >> 32;
}

/* Gets this vCPU ready to take interrupts; returns its own data. */
static struct cpu *set_up(void)
{
	struct {
		uint16_t limit;
		u64 base;
	} __attribute__((packed)) pointer = { sizeof(idt) - 1, (u64)idt };
	u32 id;

	asm volatile("lidt %0" :: "m"(pointer));
	if (mode == XAPIC_MODE) {
		*xapic(XAPIC_SPURIOUS) = 0x100 | VECTOR_SPURIOUS;
		id = *xapic(XAPIC_ID) >> 24;
	} else {
		write_msr(MSR_APIC_BASE, read_msr(MSR_APIC_BASE) | 0xc00);
		write_msr(X2APIC_SPURIOUS, 0x100 | VECTOR_SPURIOUS);
		id = read_msr(X2APIC_ID);
	}
	if (id >= MAX_CPUS)
		fail("a vCPU with an APIC id above 63");
	cpus[id].id = id;
	write_msr(MSR_GS_BASE, (u64)&cpus[id]);
	asm volatile("sti");
	return &cpus[id];
}

void other(void)
{
	struct cpu *cpu = set_up();

	__atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
	while (ready < nr_cpus)
		pause();
	work(cpu);
	for (;;)
		asm volatile("cli; hlt");
}

static void start_others(void)
{
	u8 *to = (u8 *)TRAMPOLINE;
	u64 cr3, begin;
	u32 i;

	asm volatile("mov %%cr3, %0" : "=r"(cr3));
	trampoline_cr3 = cr3;
	for (i = 0; trampoline + i < trampoline_end; i++)
		to[i] = trampoline[i];
	send(0, ICR_ALL_BUT_SELF | ICR_INIT);
	for (begin = tsc(); since_ns(begin) < 1000000;)
		pause();
	send(0, ICR_ALL_BUT_SELF | ICR_STARTUP | TRAMPOLINE >> 12);
	for (begin = tsc(); ready < nr_cpus;) {
		if (since_ns(begin) > 10000000000ull)
			fail("not all vCPUs have started");
		pause();
	}
}

static char order[256];

/* Reads a line from the console. */
static void read_line(void)
{
	u32 length = 0;

	for (;;) {
		while (!(in8(COM1 + 5) & 1))
			pause();
		char c = in8(COM1);

		if (c == '\n') {
			order[length] = 0;
			return;
		}
		if (length < sizeof(order) - 1)
			order[length++] = c;
	}
}

/* The text after @name in the order; none if it is not there. */
static const char *after(const char *name)
{
	const char *at, *a, *b;

	for (at = order; *at; at++) {
		for (a = at, b = name; *b && *a == *b; a++, b++)
			;
		if (!*b)
			return a;
	}
	return 0;
}

static u64 number(const char *name)
{
	const char *at = after(name);
	u64 value = 0;

	if (!at)
		fail("an order without a number that it needs");
	while (*at >= '0' && *at <= '9')
		value = value * 10 + *at++ - '0';
	return value;
}

/* Which workload is ordered, of those that call some: sets how many, and how. */
static int ordered_some(void)
{
	static const struct {
		const char *begin;
		int count;	/* below 0: so many less than all */
	} counts[] = {
		{ "\"truth-2-", 2 }, { "\"truth-3-", 3 }, { "\"truth-half-", 0 },
		{ "\"truth-but2-", -2 },
	};
	u32 i;

	for (i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
		const char *how = after(counts[i].begin);
		int count = counts[i].count;

		if (!how)
			continue;
		some = count > 0 ? count : count ? (int)nr_cpus + count : (int)nr_cpus / 2;
		if (some < 1 || some >= nr_cpus)
			fail("it needs more vCPUs to call so many");
		mode = how[0] == 'c' ? CLUSTER : how[1] == '2' ? X2APIC : XAPIC_MODE;
		return 1;
	}
	return 0;
}

static enum kind ordered_kind(void)
{
	static const char *const names[] = {
		[CALL] = "\"truth-call\"", [ALL] = "\"truth-all\"", [SOME] = "",
		[WAKE] = "\"truth-wake\"", [LOCK] = "\"truth-lock\"",
	};

	if (ordered_some())
		return SOME;
	for (u32 i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (i != SOME && after(names[i]))
			return i;
	fail("no such workload");
	return 0;
}

static void tell_waits(struct cpu *cpu)
{
	for (u32 i = 0; i < cpu->waits; i++) {
		struct wait *wait = &cpu->wait[i];

		if (i % A_LINE == 0) {
			print(i ? "\nVMFIRST TRUTH " : "VMFIRST TRUTH ");
			print_number(window_begin, 16);
		}
		print(",");
		print_number(cpu->id, 16);
		print(" ");
		print_number(wait->target, 16);
		print(" ");
		print_number(wait->begin - window_begin, 16);
		print(" ");
		print_number(wait->end - wait->begin, 16);
	}
	if (cpu->waits)
		print("\n");
}

static void tell(void)
{
	u64 operations = 0, dropped = 0, waits = 0;

	for (u32 id = 0; id < nr_cpus; id++) {
		operations += cpus[id].operations;
		dropped += cpus[id].dropped;
		waits += cpus[id].waits;
		tell_waits(&cpus[id]);
	}
	print("VMFIRST RESULT {\"value\":");
	print_number(operations * 1000000000 / window_ns, 10);
	print(",\"unit\":\"waits/s\",\"window_s\":");
	print_number(window_ns, 10);
	print("e-9,\"extras\":{\"waits_told\":");
	print_number(waits, 10);
	print(",\"waits_dropped\":");
	print_number(dropped, 10);
	print("}}\n");
}

/* Takes the order and what it says. */
static void obey(void)
{
	u64 seed;

	do {
		read_line();
	} while (!after("VMFIRST GO "));
	ordered = tsc();
	write_msr(MSR_KVM_CLOCK, (u64)&clock | 1);
	if (!clock.multiplier)
		fail("no clock of KVM's: the VMM hides it");
	nr_cpus = number("\"clients\":");
	if (nr_cpus < 2 || nr_cpus > MAX_CPUS)
		fail("it takes 2 to 64 vCPUs");
	begin_ns = number("\"warmup_ms\":") * 1000000;
	end_ns = begin_ns + number("\"window_ms\":") * 1000000;
	seed = number("\"seed\":");
	for (u32 id = 0; id < nr_cpus; id++)
		cpus[id].random = (seed << 8 | id) * 0x9e3779b97f4a7c15 | 1;
	kind = ordered_kind();
}

/* The APIC's page is at 3 to 4 GiB, which the VMM's tables may lack. */
static void map_xapic(void)
{
	static u64 level3[512] __attribute__((aligned(4096)));
	static u64 level2[512] __attribute__((aligned(4096)));
	u64 *level4, cr3;
	u32 i;

	asm volatile("mov %%cr3, %0" : "=r"(cr3));
	level4 = (u64 *)(cr3 & ~0xfffull);
	for (i = 0; i < 512 && (level4[0] & 1); i++)
		level3[i] = ((u64 *)(level4[0] & ~0xfffull))[i];
	level2[(XAPIC >> 21) & 511] = (XAPIC & ~0x1fffffull) | PAGE_WRITABLE | PAGE_LARGE |
				      PAGE_UNCACHED;
	level3[3] = (u64)level2 | PAGE_WRITABLE;
	level4[0] = (u64)level3 | PAGE_WRITABLE;
	asm volatile("mov %0, %%cr3" :: "r"(cr3) : "memory");
}

void first(void)
{
	struct cpu *cpu;

	gate(VECTOR_CALL, on_call);
	gate(VECTOR_WAKE, on_wake);
	gate(VECTOR_SPURIOUS, on_spurious);
	map_xapic();
	print("VMFIRST READY\n");
	obey();
	cpu = set_up();
	ready = 1;
	start_others();
	work(cpu);
	tell();
	power_off();
}
