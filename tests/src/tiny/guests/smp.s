# Wakes all other processors, by INIT and start-up messages to all but itself; each counts to 1000
# and notes its APIC id. Then says the count, and the ids.
.set COUNT, SCRATCH
.set ARRIVED, SCRATCH + 4
.set SEEN, SCRATCH + 0x100
.set START, 0x8000

guest smp
    movl $0, COUNT
    movl $0, ARRIVED
    movl $SEEN, %edi
    movl $64, %ecx
    xorl %eax, %eax
    rep stosl
    address_of smp_processor, %esi
    movl $START, %edi
    movl $(smp_end - smp_processor), %ecx
    rep movsb
    # EBP: how many local APICs the MADT has.
    movl $0x43495041, %eax
    call find_table
    movl 4(%esi), %ecx
    addl %esi, %ecx
    addl $44, %esi
    xorl %ebp, %ebp
1:  cmpb $0, (%esi)
    jne 2f
    incl %ebp
2:  movzbl 1(%esi), %eax
    addl %eax, %esi
    cmpl %ecx, %esi
    jb 1b
    # Enables the local APIC, and sends.
    movl $0x1ff, LOCAL_APIC + 0xf0
    movl $0x000c4500, LOCAL_APIC + 0x300
    movl $(0x000c4600 | START >> 12), LOCAL_APIC + 0x300
    decl %ebp
3:  pause
    cmpl %ebp, ARRIVED
    jb 3b
    say "count "
    say_hex COUNT
    say "\n"
    movl LOCAL_APIC + 0x20, %eax
    shrl $24, %eax
    movb $1, SEEN(%eax)
    xorl %ecx, %ecx
4:  cmpb $0, SEEN(%ecx)
    je 5f
    say "APIC "
    say_hex %ecx
    say "\n"
5:  incl %ecx
    cmpl $256, %ecx
    jb 4b
    power_off

.code16
smp_processor:
    xorw %ax, %ax
    movw %ax, %ds
    movl $1, %eax
    cpuid
    shrl $24, %ebx
    movb $1, SEEN(%bx)
    movw $1000, %cx
1:  lock incl COUNT
    loop 1b
    lock incl ARRIVED
2:  cli
    hlt
    jmp 2b
smp_end:
.code32
