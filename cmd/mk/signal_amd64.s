#include "textflag.h"

// onSignal writes its argument to signalPipe, as one byte. It has C's calling
// convention, and what it runs on may be anything but a goroutine.
TEXT onSignal<>(SB),NOSPLIT|NOFRAME,$0
	PUSHQ	DI
	MOVL	$1, AX // write(2)
	MOVQ	·signalPipe+8(SB), DI
	MOVQ	SP, SI
	MOVL	$1, DX
	SYSCALL
	POPQ	DI
	RET

TEXT sigReturn<>(SB),NOSPLIT|NOFRAME,$0
	MOVL	$15, AX // rt_sigreturn(2)
	SYSCALL
	INT	$3 // not reached

DATA	·onSignal(SB)/8, $onSignal<>(SB)
GLOBL	·onSignal(SB), NOPTR, $8
DATA	·sigReturn(SB)/8, $sigReturn<>(SB)
GLOBL	·sigReturn(SB), NOPTR, $8
