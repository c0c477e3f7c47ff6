# FNSAVE to where there is no memory: KVM's emulator does not know it.
guest no_emulation
    movl $0x87654321, %ebx
    movl $0xd0000000, %eax
    fnsave (%eax)
    say "not reached\n"
    power_off
