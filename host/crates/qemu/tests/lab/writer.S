# A guest without a system: a boot sector that writes for ever.
#
# It counts in memory, and writes each number, all over one sector, to sector 2048 + number % 4096 of both its disks,
# the first disk first. So memory and both disks tell how far it was, and a number that is missing tells of a tear.
# as --64 writer.S -o t.o && ld -m elf_x86_64 -Ttext 0x7c00 --oformat binary t.o -o writer.bin
.code16
.globl _start
_start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    sti
    movl $0, counter
next:
    incl counter
    movl counter, %eax
    movw $0x1000, %di
    movw $128, %cx
    rep stosl
    movl counter, %eax
    andl $4095, %eax
    addl $2048, %eax
    movl %eax, lba
    movb $0x80, %dl
    call write
    movb $0x81, %dl
    call write
    jmp next
write:
    movw $packet, %si
    movw $1, count
    movw $0x4300, %ax
    int $0x13
    ret
.align 4
counter: .long 0
packet:  .byte 16, 0
count:   .word 1
         .word 0x1000, 0
lba:     .long 0, 0
.org 510
    .word 0xaa55
