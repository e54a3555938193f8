/* A guest that says that it is there and halts for good: all that a VMM uses then is its own. */
	.section .text.start, "ax"
	.code64
	.globl _start
_start:
	mov	$ready, %esi
	mov	$0x3f8, %dx
1:	lodsb
	test	%al, %al
	jz	2f
	out	%al, %dx
	jmp	1b
2:	cli
	hlt
	jmp	2b

	.section .rodata
ready:	.asciz	"VMFIRST READY\n"

	.section .note.GNU-stack, "", @progbits
