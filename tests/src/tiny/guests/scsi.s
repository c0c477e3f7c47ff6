# A virtio-scsi driver: INQUIRY three times with a message-signalled interrupt, and three times with
# the device's pin.
.set INTERRUPTS, SCRATCH
# Where the device's structures are, by their type: common 1, notifications 2, ISR 3; the MSI-X
# capability.
.set STRUCTURES, SCRATCH + 0x20
.set MSIX, SCRATCH + 0x40
.set NOTIFY, SCRATCH + 0x44
.set DESCRIPTORS, 0x200000
.set AVAILABLE, 0x200100
.set USED, 0x200200
.set REQUEST, 0x200300
.set RESPONSE, 0x200400
.set INQUIRY_DATA, 0x200500
.set QUEUE, 2
.set NO_VECTOR, 0xffff

guest scsi
    call find_virtio
    on_interrupt 0x50, scsi_message
    on_interrupt 0x51, scsi_pin
    movl $0x1ff, LOCAL_APIC + 0xf0
    call scsi_structures
    # May access memory.
    orw $4, 4(%ebp)

    # MSI-X: the first vector is interrupt 50 of this processor.
    movl MSIX, %esi
    movl 4(%esi), %eax
    andl $~7, %eax
    addl 0x10(%ebp), %eax
    movl $LOCAL_APIC, (%eax)
    movl $0, 4(%eax)
    movl $0x50, 8(%eax)
    movl $0, 12(%eax)
    movw $0x8000, 2(%esi)
    say "message\n"
    movl $0, %ebx
    call scsi_test

    # The pin: level-triggered interrupt 51.
    movl MSIX, %esi
    movw $0, 2(%esi)
    movzbl 0x3c(%ebp), %eax
    leal 0x10(, %eax, 2), %eax
    movl %eax, IO_APIC
    movl $0x8051, IO_APIC + 0x10
    incl %eax
    movl %eax, IO_APIC
    movl $0, IO_APIC + 0x10
    say "pin\n"
    movl $NO_VECTOR, %ebx
    call scsi_test
    power_off

# Walks the capabilities.
scsi_structures:
    movzbl 0x34(%ebp), %esi
1:  addl %ebp, %esi
    cmpb $0x11, (%esi)
    jne 2f
    movl %esi, MSIX
2:  cmpb $9, (%esi)
    jne 3f
    movzbl 3(%esi), %eax
    movl 0x10(%ebp), %ecx
    addl 8(%esi), %ecx
    movl %ecx, STRUCTURES(, %eax, 4)
    cmpl $2, %eax
    jne 3f
    movl 16(%esi), %ecx
    movl %ecx, NOTIFY
3:  movzbl 1(%esi), %esi
    testl %esi, %esi
    jnz 1b
    ret

# Starts the device with BX as the queue's vector, does three requests, and resets it.
scsi_test:
    movl $0, INTERRUPTS
    movl $DESCRIPTORS, %edi
    movl $(0x600 / 4), %ecx
    xorl %eax, %eax
    rep stosl
    call scsi_start
    call scsi_prepare
    movl $3, %ecx
1:  call scsi_request
    loop 1b
    # LUN 0: vendor and product, response and status, interrupts.
    movl $(INQUIRY_DATA + 8), %esi
    movl $24, %ecx
    call print_bytes
    say "\n"
    movzwl RESPONSE + 10, %eax
    say_hex %eax
    say " "
    movzwl USED + 2, %eax
    say_hex %eax
    say " "
    say_hex INTERRUPTS
    say "\n"
    movl STRUCTURES + 4, %edi
    movb $0, 0x14(%edi)
    ret

scsi_start:
    movl STRUCTURES + 4, %edi
    movb $0, 0x14(%edi)
1:  cmpb $0, 0x14(%edi)
    jne 1b
    # ACKNOWLEDGE, DRIVER; of the features only VERSION_1; FEATURES_OK.
    movb $1, 0x14(%edi)
    movb $3, 0x14(%edi)
    movl $0, 0x08(%edi)
    movl $0, 0x0c(%edi)
    movl $1, 0x08(%edi)
    movl $1, 0x0c(%edi)
    movb $11, 0x14(%edi)
    # The queue.
    movw $QUEUE, 0x16(%edi)
    movw $8, 0x18(%edi)
    movw %bx, 0x1a(%edi)
    movl $DESCRIPTORS, 0x20(%edi)
    movl $0, 0x24(%edi)
    movl $AVAILABLE, 0x28(%edi)
    movl $0, 0x2c(%edi)
    movl $USED, 0x30(%edi)
    movl $0, 0x34(%edi)
    movw $1, 0x1c(%edi)
    # DRIVER_OK.
    movb $15, 0x14(%edi)
    ret

# A request's three buffers: INQUIRY of target 0's LUN 0; the response; 36 bytes of data.
scsi_prepare:
    movl $0x00400001, REQUEST
    movl $0x12, REQUEST + 19
    movb $36, REQUEST + 19 + 4
    movl $DESCRIPTORS, %edi
    movl $REQUEST, (%edi)
    movl $51, 8(%edi)
    movl $0x00010001, 12(%edi)
    movl $RESPONSE, 16(%edi)
    movl $108, 24(%edi)
    movl $0x00020003, 28(%edi)
    movl $INQUIRY_DATA, 32(%edi)
    movl $36, 40(%edi)
    movl $0x00000002, 44(%edi)
    ret

# Offers the request, and sleeps until it is served.
scsi_request:
    pushl %ecx
    movl $-1, RESPONSE + 10
    movl INTERRUPTS, %ecx
    incw AVAILABLE + 2
    mfence
    movl STRUCTURES + 4, %edi
    movzwl 0x1e(%edi), %eax
    imull NOTIFY, %eax
    addl STRUCTURES + 8, %eax
    movw $QUEUE, (%eax)
1:  sleep
    cmpl INTERRUPTS, %ecx
    je 1b
    popl %ecx
    ret

scsi_message:
    incl INTERRUPTS
    movl $0, LOCAL_APIC + 0xb0
    end_interrupt

# Reading the ISR lowers the pin.
scsi_pin:
    pushl %eax
    movl STRUCTURES + 12, %eax
    cmpb $0, (%eax)
    popl %eax
    je 1f
    incl INTERRUPTS
1:  movl $0, LOCAL_APIC + 0xb0
    end_interrupt
