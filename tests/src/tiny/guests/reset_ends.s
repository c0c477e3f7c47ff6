# Its first start resets, with an exception that nobody handles as the very next instruction. The
# second says that it is there.
.set STARTS_BYTE, 0x41

guest reset_ends
    out8 0x70, STARTS_BYTE
    inb $0x71, %al
    testb %al, %al
    jnz 1f
    movb $1, %al
    outb %al, $0x71
    pushl $0
    pushw $0
    lidt (%esp)
    xorl %ecx, %ecx
    out8 RESET, 6
    divl %ecx
1:  say "again\n"
    power_off
