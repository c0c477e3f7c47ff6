# Memory above 4 GiB, in 64-bit mode: it keeps what is written, and is not that below.
guest memory
    movl $0x11111111, 0x200000
    call enter_long_mode
.code64
    movabsq $0x100200000, %rbx
    movl $0x22222222, (%rbx)
    # The last doubleword of the gibibyte there.
    movabsq $0x13ffffffc, %rcx
    movl $0x33333333, (%rcx)
    movl (%rbx), %r8d
    movl (%rcx), %r9d
    movl 0x200000, %r10d
    # Behind it there is nothing.
    movl 4(%rcx), %r11d
    movl %r8d, SCRATCH
    movl %r9d, SCRATCH + 4
    movl %r10d, SCRATCH + 8
    movl %r11d, SCRATCH + 12
    # Back to 32 bits, to say it.
    pushq $CODE
    leaq 1f(%rip), %rax
    pushq %rax
    lretq
.code32
1:  say_hex SCRATCH
    say " "
    say_hex SCRATCH + 4
    say " "
    say_hex SCRATCH + 8
    say " "
    say_hex SCRATCH + 12
    say "\n"
    power_off
