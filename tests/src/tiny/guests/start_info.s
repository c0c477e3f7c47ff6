# What PVH tells: the command line, and "start size type" of each range of the address space.
guest start_info
    say_hex (%ebx)
    say "\n"
    movl 24(%ebx), %esi
    movw $SERIAL, %dx
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:  say "\n"
    movl 40(%ebx), %esi
    movl 48(%ebx), %ecx
3:  say_hex 4(%esi)
    say_hex (%esi)
    say " "
    say_hex 12(%esi)
    say_hex 8(%esi)
    say " "
    say_hex 16(%esi)
    say "\n"
    addl $24, %esi
    loop 3b
    power_off
