# The ACPI tables: each one's signature, length and sum; and each processor of the MADT.
guest acpi
    movl 32(%ebx), %esi
    movl $8, %ecx
    call print_bytes
    say " "
    movl $20, %ecx
    call checksum
    say_hex %eax
    say " "
    movl $36, %ecx
    call checksum
    say_hex %eax
    say "\n"
    movl 24(%esi), %esi
    call acpi_table
    # Whatever the XSDT lists.
    movl 4(%esi), %ecx
    subl $36, %ecx
    shrl $3, %ecx
    leal 36(%esi), %edi
1:  movl (%edi), %esi
    call acpi_table
    addl $8, %edi
    loop 1b
    # The FADT leads to the DSDT.
    movl $0x50434146, %eax
    call find_table
    movl 140(%esi), %esi
    call acpi_table
    # Local APICs of the MADT: type 0, number, APIC id, flags.
    movl $0x43495041, %eax
    call find_table
    movl 4(%esi), %ecx
    addl %esi, %ecx
    addl $44, %esi
2:  cmpb $0, (%esi)
    jne 3f
    say "processor "
    movzbl 2(%esi), %eax
    say_hex %eax
    say " APIC "
    movzbl 3(%esi), %eax
    say_hex %eax
    say "\n"
3:  movzbl 1(%esi), %eax
    addl %eax, %esi
    cmpl %ecx, %esi
    jb 2b
    power_off

acpi_table:
    pushl %ecx
    movl $4, %ecx
    call print_bytes
    say " "
    say_hex 4(%esi)
    say " "
    movl 4(%esi), %ecx
    call checksum
    say_hex %eax
    say "\n"
    popl %ecx
    ret
