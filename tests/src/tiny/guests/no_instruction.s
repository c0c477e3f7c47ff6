# Goes where there is no memory: there is nothing that KVM could emulate.
guest no_instruction
    movl $0x87654321, %ebx
    movl $0xd0000000, %eax
    jmp *%eax
