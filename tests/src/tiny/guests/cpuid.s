# All leaves of CPUID: "leaf subleaf eax ebx ecx edx" for the first subleaf of each, and for every
# other one that is neither as the first nor empty. (Leaf B repeats the number and the APIC id in
# what is empty.)
.set FIRST, SCRATCH
.set LAST, SCRATCH + 16

guest cpuid
    movl $0, %esi
    call range
    movl $0x40000000, %esi
    call range
    movl $0x80000000, %esi
    call range
    say "end\n"
    # QEMU's machine without firmware has no S5, but this.
    movw $PM1_CONTROL, %dx
    movw $0x3400, %ax
    outw %ax, %dx
    out8 RESET, 6
1:  hlt
    jmp 1b

# All leaves of the range that begins at ESI.
range:
    movl %esi, %eax
    xorl %ecx, %ecx
    cpuid
    movl %eax, LAST
1:  xorl %edi, %edi
2:  call leaf
    incl %edi
    cmpl $64, %edi
    jb 2b
    incl %esi
    cmpl LAST, %esi
    jbe 1b
    ret

# Subleaf EDI of leaf ESI.
leaf:
    movl %esi, %eax
    movl %edi, %ecx
    cpuid
    testl %edi, %edi
    jnz 1f
    movl %eax, FIRST
    movl %ebx, FIRST + 4
    movl %ecx, FIRST + 8
    movl %edx, FIRST + 12
    jmp 3f
1:  movl %eax, %ebp
    orl %ebx, %ebp
    jnz 2f
    movl %ecx, %ebp
    orl %edx, %ebp
    jz 4f
    cmpl %edi, %ecx
    jne 2f
    cmpl FIRST + 12, %edx
    je 4f
2:  cmpl FIRST, %eax
    jne 3f
    cmpl FIRST + 4, %ebx
    jne 3f
    cmpl FIRST + 8, %ecx
    jne 3f
    cmpl FIRST + 12, %edx
    je 4f
3:  say_hex %esi
    say " "
    say_hex %edi
    say " "
    say_hex %eax
    say " "
    say_hex %ebx
    say " "
    say_hex %ecx
    say " "
    say_hex %edx
    say "\n"
4:  ret
