# What tiny guests share. All of them, and this, are one image that runs wherever it is loaded: code
# finds what it needs by its distance, and data that it writes is at fixed places in low memory.

.section .tiny, "a"
.globl tiny_image
tiny_image:
.code32

.set SERIAL, 0x3f8
.set PM1_STATUS, 0x600
.set PM1_CONTROL, 0x604
.set PM_TIMER, 0x608
.set RESET, 0xcf9
.set LOCAL_APIC, 0xfee00000
.set IO_APIC, 0xfec00000
.set ECAM, 0xe0000000

# Low memory, up to where the machine puts what a kernel is told.
.set SCRATCH, 0x1000
.set GDT, 0x2000
.set IDT, 0x3000
.set STACK, 0x6000
.set CODE, 0x10
.set DATA, 0x18
.set CODE_64, 0x20
# Four-level page tables: one, one, and eight pages.
.set PML4, 0x10000
.set PDPT, 0x11000
.set PD, 0x12000

# A guest begins: `guest NAME`, then its code, in 32-bit protected mode without paging. EBX leads to
# PVH's start information.
.macro guest name
    .balign 16
    .globl guest_\name
guest_\name:
    movl $STACK, %esp
    call enter
.endm

# A line of text, or a part of one.
.macro say text:vararg
    call print
    .asciz \text
.endm

# Eight hexadecimal digits.
.macro say_hex value
    pushl \value
    call print_hex
.endm

# The address of something in the image.
.macro address_of what, register
    call 9f
9:  popl \register
    addl $(\what - 9b), \register
.endm

# An interrupt vector's handler.
.macro on_interrupt vector, handler
    address_of \handler, %eax
    movl $\vector, %ecx
    call set_gate
.endm

# A handler's end. The emulator, which some hosts need for all that a guest does, has no IRET; so
# interrupts stay off, and flags are not as they were.
.macro end_interrupt
    lretl $4
.endm

# Sleeps until the next interrupt.
.macro sleep
    sti
    hlt
    cli
.endm

.macro out8 port, value
    movw $\port, %dx
    movb $\value, %al
    outb %al, %dx
.endm

# S5: SLP_TYP is 5, SLP_EN.
.macro power_off
    movw $PM1_CONTROL, %dx
    movw $0x3400, %ax
    outw %ax, %dx
8:  cli
    hlt
    jmp 8b
.endm

# Segments of our own, and no interrupt handler yet. EBX stays.
enter:
    cli
    cld
    movl $GDT, %edi
    movl $((IDT - GDT + 0x800) / 4), %ecx
    xorl %eax, %eax
    rep stosl
    movl $0x0000ffff, GDT + CODE
    movl $0x00cf9b00, GDT + CODE + 4
    movl $0x0000ffff, GDT + DATA
    movl $0x00cf9300, GDT + DATA + 4
    movl $0x0000ffff, GDT + CODE_64
    movl $0x00af9b00, GDT + CODE_64 + 4
    popl %edx
    pushl $IDT
    pushw $0x7ff
    lidt (%esp)
    movl $GDT, 2(%esp)
    movw $0x27, (%esp)
    lgdt (%esp)
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $STACK, %esp
    pushl $CODE
    pushl %edx
    lretl

# The text that follows the call.
print:
    pushal
    movl 32(%esp), %esi
    movw $SERIAL, %dx
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:  movl %esi, 32(%esp)
    popal
    ret

# The doubleword on the stack.
print_hex:
    pushal
    movl 36(%esp), %ebx
    movl $8, %ecx
    movw $SERIAL, %dx
1:  roll $4, %ebx
    movb %bl, %al
    andb $15, %al
    addb $'0', %al
    cmpb $'9', %al
    jbe 2f
    addb $('a' - '9' - 1), %al
2:  outb %al, %dx
    loop 1b
    popal
    ret $4

# A text of ECX bytes at ESI.
print_bytes:
    pushal
    movw $SERIAL, %dx
    rep outsb
    popal
    ret

# EAX handles the vector ECX.
set_gate:
    movw %ax, IDT(, %ecx, 8)
    movw $CODE, IDT + 2(, %ecx, 8)
    movw $0x8e00, IDT + 4(, %ecx, 8)
    shrl $16, %eax
    movw %ax, IDT + 6(, %ecx, 8)
    ret

# Returns in 64-bit mode, where addresses below 8 GiB are physical ones.
enter_long_mode:
    movl $PML4, %edi
    movl $(10 * 1024), %ecx
    xorl %eax, %eax
    rep stosl
    movl $(PDPT | 3), PML4
    movl $(PD | 3), %eax
    movl $PDPT, %edi
    movl $8, %ecx
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x1000, %eax
    loop 1b
    movl $0x83, %eax
    xorl %edx, %edx
    movl $PD, %edi
    movl $(8 * 512), %ecx
1:  movl %eax, (%edi)
    movl %edx, 4(%edi)
    addl $8, %edi
    addl $0x200000, %eax
    adcl $0, %edx
    loop 1b
    # PAE, LME, paging.
    movl %cr4, %eax
    orl $(1 << 5), %eax
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $(1 << 8), %eax
    wrmsr
    movl %cr0, %eax
    orl $(1 << 31), %eax
    movl %eax, %cr0
    popl %eax
    pushl $CODE_64
    pushl %eax
    lretl

# The ACPI table whose signature is EAX: its address in ESI. EBX leads to PVH's start information.
find_table:
    movl 32(%ebx), %esi
    movl 24(%esi), %esi
    movl 4(%esi), %ecx
    subl $36, %ecx
    shrl $3, %ecx
    leal 36(%esi), %edi
1:  movl (%edi), %esi
    cmpl %eax, (%esi)
    je 2f
    addl $8, %edi
    loop 1b
    xorl %esi, %esi
2:  ret

# The sum of ECX bytes at ESI, in AL.
checksum:
    pushl %ecx
    pushl %esi
    xorl %eax, %eax
1:  addb (%esi), %al
    incl %esi
    loop 1b
    popl %esi
    popl %ecx
    ret

# The configuration space of the first virtio device, by memory: its address in EBP.
find_virtio:
    movl $ECAM, %ebp
1:  cmpw $0x1af4, (%ebp)
    je 2f
    addl $0x8000, %ebp
    cmpl $(ECAM + 0x100000), %ebp
    jb 1b
    say "no virtio device\n"
    power_off
2:  ret
