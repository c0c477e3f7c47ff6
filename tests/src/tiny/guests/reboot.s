# Counts its starts in a byte of the clock's memory, which outlives a reset, and in its own image,
# which is loaded again. The first start resets by the reset register, the second by the keyboard
# controller, and the third switches off.
.set CLOCK_BYTE, 0x40

guest reboot
    out8 0x70, CLOCK_BYTE
    inb $0x71, %al
    incb %al
    movzbl %al, %ebx
    outb %al, $0x71
    address_of reboot_count, %esi
    incl (%esi)
    say "start "
    say_hex %ebx
    say ", loaded "
    say_hex (%esi)
    say "\n"
    cmpl $2, %ebx
    jb 1f
    je 2f
    power_off
1:  out8 RESET, 6
    hlt
2:  out8 0x64, 0xfe
    hlt
.balign 4
reboot_count:
    .long 0
