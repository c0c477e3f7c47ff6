# The timers of a PC, and the interrupts of two, through the PICs.
.set TICKS, SCRATCH
.set PERIODS, SCRATCH + 4

guest timers
    movl $0, TICKS
    movl $0, PERIODS
    on_interrupt 0x20, timers_tick
    on_interrupt 0x28, timers_period
    # The PICs: vectors from 20 and 28; inputs 0, 2 (the other PIC) and 8.
    out8 0x20, 0x11
    out8 0x21, 0x20
    out8 0x21, 0x04
    out8 0x21, 0x01
    out8 0xa0, 0x11
    out8 0xa1, 0x28
    out8 0xa1, 0x02
    out8 0xa1, 0x01
    out8 0x21, 0xfa
    out8 0xa1, 0xfe
    # The PIT's channel 0: mode 2, every 0x1000 of its ticks.
    out8 0x43, 0x34
    out8 0x40, 0x00
    out8 0x40, 0x10
1:  sleep
    cmpl $5, TICKS
    jb 1b
    say "PIT interrupts\n"
    # The clock: 1024 periodic interrupts a second.
    out8 0x70, 0x0a
    out8 0x71, 0x26
    out8 0x70, 0x0b
    out8 0x71, 0x42
1:  sleep
    cmpl $5, PERIODS
    jb 1b
    say "clock interrupts\n"
    # The PIT's channel 2, by its gate and output in port 61: mode 0, once.
    out8 0x61, 0x01
    out8 0x43, 0xb0
    out8 0x42, 0x00
    out8 0x42, 0x10
1:  inb $0x61, %al
    testb $0x20, %al
    jz 1b
    say "PIT output\n"
    # The power management timer.
    movw $PM_TIMER, %dx
    inl %dx, %eax
    movl %eax, %ebx
1:  inl %dx, %eax
    cmpl %eax, %ebx
    je 1b
    say "PM timer\n"
    power_off

timers_tick:
    pushl %eax
    incl TICKS
    movb $0x20, %al
    outb %al, $0x20
    popl %eax
    end_interrupt

# Register C has to be read for the next one to come.
timers_period:
    pushl %eax
    incl PERIODS
    movb $0x0c, %al
    outb %al, $0x70
    inb $0x71, %al
    movb $0x20, %al
    outb %al, $0xa0
    outb %al, $0x20
    popl %eax
    end_interrupt
