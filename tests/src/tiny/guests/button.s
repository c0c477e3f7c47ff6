# Says that it starts, and switches the machine off when its power button is pressed.
guest button
    say "start\n"
    # The status register, where the button sets a bit.
    movw $PM1_STATUS, %dx
1:  inw %dx, %ax
    testw $0x100, %ax
    jz 1b
    say "button\n"
    power_off
