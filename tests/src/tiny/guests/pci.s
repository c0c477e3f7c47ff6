# The first function of every device: "device id class", by ports and by memory. Then what is not
# there: another bus, and a register beyond a configuration space by ports.

guest pci
    xorl %ecx, %ecx
1:  movl %ecx, %eax
    shll $11, %eax
    orl $0x80000000, %eax
    movl %ecx, %ebx
    shll $15, %ebx
    call pci_read
    cmpl $0xffffffff, %eax
    jne 2f
    cmpl $0xffffffff, ECAM(%ebx)
    je 3f
2:  say_hex %ecx
    say " ports "
    call pci_both
    say " memory "
    say_hex ECAM(%ebx)
    say " "
    say_hex ECAM + 8(%ebx)
    say "\n"
3:  incl %ecx
    cmpl $32, %ecx
    jb 1b
    movl $0x80010000, %eax
    call pci_read
    say_hex %eax
    say " "
    say_hex ECAM + 0x100000
    say " "
    say_hex ECAM + 0x100
    say "\n"
    power_off

# Reads the register that EAX selects.
pci_read:
    movw $0xcf8, %dx
    outl %eax, %dx
    movw $0xcfc, %dx
    inl %dx, %eax
    ret

# The identity and class of device ECX, by ports.
pci_both:
    movl %ecx, %eax
    shll $11, %eax
    orl $0x80000000, %eax
    call pci_read
    say_hex %eax
    say " "
    movl %ecx, %eax
    shll $11, %eax
    orl $0x80000008, %eax
    call pci_read
    say_hex %eax
    ret
