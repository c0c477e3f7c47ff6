# The first BAR of the first virtio device: its size, and where it answers when it is moved.
.set NEW_PLACE, 0xc8000000

guest bars
    call find_virtio
    movl 0x10(%ebp), %ebx
    # With all bits written, those that can't be set tell the size.
    movl $0xffffffff, 0x10(%ebp)
    movl 0x10(%ebp), %eax
    notl %eax
    incl %eax
    say "size "
    say_hex %eax
    say "\n"
    movl %ebx, 0x10(%ebp)
    call bars_look
    movl $NEW_PLACE, 0x10(%ebp)
    say "moved\n"
    call bars_look
    # Without the command register's memory bit it is nowhere.
    andw $0xfffd, 4(%ebp)
    say "disabled\n"
    call bars_look
    orw $2, 4(%ebp)
    movl %ebx, 0x10(%ebp)
    say "back\n"
    call bars_look
    power_off

# The number of queues, at the old and the new place.
bars_look:
    movzwl 0x12(%ebx), %eax
    say_hex %eax
    say " "
    movzwl NEW_PLACE + 0x12, %eax
    say_hex %eax
    say "\n"
    ret
