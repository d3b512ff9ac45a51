# A boot sector that ends its QEMU with exit code 0x21 if a virtual CPU really works.
# as --64 trial.S -o t.o && ld -m elf_x86_64 -Ttext 0x7c00 --oformat binary t.o -o t && head -c 156 t >trial.bin
.code16
.globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    # Page tables at 0x1000: the first 2 MiB, mapped as they are.
    movw $0x1000, %di
    movw $0x1800, %cx
    rep stosw
    movw $0x2003, 0x1000
    movw $0x3003, 0x2000
    movw $0x0083, 0x3000
    movl $0xA0, %eax
    movl %eax, %cr4
    movl $0x1000, %eax
    movl %eax, %cr3
    # Long mode.
    movl $0xC0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    lgdt gdtr
    ljmp $8, $long
.code64
long:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %ss
    # Some work.
    movl $100000, %ecx
1:  imulq $3, %rcx, %rdx
    loop 1b
    xorl %eax, %eax
    cpuid
    # Tell.
    movb $0x10, %al
    outb %al, $0xf4
2:  hlt
    jmp 2b
.align 8
gdt:
    .quad 0, 0x00209A0000000000, 0x0000920000000000
gdtr:
    .word 23
    .long gdt
.org 510
    .word 0xaa55
