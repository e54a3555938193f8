/*
 * Where the vCPUs start. The first one comes in 64-bit mode, with the VMM's
 * tables; the others in real mode at TRAMPOLINE, to where the first has copied
 * the code between trampoline and trampoline_end.
 */
#include "truth.h"

	.section .text.start, "ax"
	.code64
	.globl _start
_start:
	lgdt	gdt_pointer(%rip)
	mov	$stacks + STACK_SIZE, %rsp
	xor	%ebp, %ebp
	call	first
1:	hlt
	jmp	1b

	.globl other_start
other_start:
	mov	$DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$1, %eax
	lock xaddl %eax, started(%rip)
	/* the caller's number is one more than those before it */
	inc	%eax
	imul	$STACK_SIZE, %eax, %eax
	lea	stacks + STACK_SIZE(%rax), %rsp
	xor	%ebp, %ebp
	call	other
1:	hlt
	jmp	1b

	.code16
	.globl trampoline
trampoline:
	cli
	xor	%ax, %ax
	mov	%ax, %ds
	lgdtl	TRAMPOLINE + (trampoline_gdt - trampoline)
	mov	%cr4, %eax
	or	$CR4_PAE, %eax
	mov	%eax, %cr4
	mov	TRAMPOLINE + (trampoline_cr3 - trampoline), %eax
	mov	%eax, %cr3
	mov	$MSR_EFER, %ecx
	rdmsr
	or	$EFER_LME, %eax
	wrmsr
	mov	%cr0, %eax
	and	$~(CR0_CD | CR0_NW), %eax
	or	$(CR0_PG | CR0_PE), %eax
	mov	%eax, %cr0
	ljmpl	$CODE, $other_start

	.balign 4
trampoline_gdt:
	.word	gdt_end - gdt - 1
	.long	gdt
	.globl trampoline_cr3
	.balign 4
trampoline_cr3:
	.long	0
	.globl trampoline_end
trampoline_end:

	.section .rodata
	.balign 8
gdt:
	.quad	0, 0
	.quad	0x00af9b000000ffff	/* CODE: 64 bits */
	.quad	0x00cf93000000ffff	/* DATA */
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.quad	gdt

	.section .note.GNU-stack, "", @progbits
