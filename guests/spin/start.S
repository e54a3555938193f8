/* A boot sector whose vCPUs all spin: firmware loads it at 0x7c00, in real mode. */
	.code16
	.globl _start
_start:
	cli
	xor	%ax, %ax
	mov	%ax, %ds
	/* What the others run: "jmp ." at the page that their interrupt names. */
	movw	$0xfeeb, 0x7000
	/* x2APIC's registers are reached without 32-bit addresses. */
	mov	$0x1b, %ecx
	rdmsr
	or	$0x400, %ax
	wrmsr
	/* INIT, then start at page 7, to all but this one. */
	mov	$0x830, %ecx
	xor	%edx, %edx
	mov	$0xc4500, %eax
	wrmsr
	mov	$0xc4607, %eax
	wrmsr
1:	jmp	1b

	.section .note.GNU-stack, "", @progbits
