# Where nobody answers, reads are all ones, and writes are lost.
guest nobody
    movw $0x500, %dx
    xorl %eax, %eax
    outb %al, %dx
    inb %dx, %al
    say_hex %eax
    say " "
    outw %ax, %dx
    xorl %eax, %eax
    inw %dx, %ax
    say_hex %eax
    say " "
    xorl %eax, %eax
    outl %eax, %dx
    inl %dx, %eax
    say_hex %eax
    say "\n"
    movl $0xd0000000, %ebx
    movb $0, (%ebx)
    movzbl (%ebx), %eax
    say_hex %eax
    say " "
    movw $0, 2(%ebx)
    movzwl 2(%ebx), %eax
    say_hex %eax
    say " "
    movl $0, 4(%ebx)
    movl 4(%ebx), %eax
    say_hex %eax
    say "\n"
    power_off
