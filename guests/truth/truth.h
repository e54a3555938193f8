/* What the assembler and the compiler both need. */

#define MAX_CPUS	64
#define STACK_SIZE	8192

/* Selectors. */
#define CODE		0x10
#define DATA		0x18

/* Below 1 MiB, where the VMM has put nothing; the number is the start-up vector. */
#define TRAMPOLINE	0x8000

#define CR0_PE		0x1
#define CR0_NW		0x20000000
#define CR0_CD		0x40000000
#define CR0_PG		0x80000000
#define CR4_PAE		0x20
#define MSR_EFER	0xc0000080
#define EFER_LME	0x100
