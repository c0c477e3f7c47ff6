# String instructions reach a port again and again.
guest strings
    # Out: a text.
    address_of strings_text, %esi
    movl $(strings_end - strings_text), %ecx
    movw $SERIAL, %dx
    rep outsb
    # In: the same byte of the clock's memory, four times.
    out8 0x70, 0x41
    out8 0x71, 0x5a
    movl $SCRATCH, %edi
    movl $4, %ecx
    rep insb
    say_hex SCRATCH
    say " "
    say_hex %ecx
    say "\n"
    # In words and doublewords: where nobody answers.
    movw $0x500, %dx
    movl $SCRATCH, %edi
    movl $2, %ecx
    rep insw
    movl $1, %ecx
    rep insl
    say_hex SCRATCH
    say " "
    say_hex SCRATCH + 4
    say "\n"
    # Downwards.
    std
    address_of (strings_text + 2), %esi
    movl $3, %ecx
    movw $SERIAL, %dx
    rep outsb
    cld
    say "\n"
    power_off
strings_text:
    .ascii "abc and so on\n"
strings_end:
