# The last bytes of a ROM that holds the image, for machines that are not told of a kernel: from the
# reset vector into protected mode, and to the guest whose address the builder puts in.

.section .tiny_rom, "a"
.globl tiny_rom
tiny_rom:
.code16
1:  cli
    # The ROM is also at F0000: the code segment's base is there after a far jump only, so that the
    # offset alone counts here.
    lgdtl %cs:(0xff00 + 4f - 1b)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $0x10, $(0xffffff00 + 2f - 1b)
.code32
2:  movw $0x18, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl (0xffffff00 + 5f - 1b), %eax
    jmp *%eax
.balign 8
3:  .quad 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
4:  .word 0x1f
    .long 0xffffff00 + 3b - 1b
.balign 4
.globl tiny_rom_entry
tiny_rom_entry:
5:  .long 0
    # The reset vector.
    .org tiny_rom + 0xf0
.code16
    jmp tiny_rom
    .org tiny_rom + 0x100
.globl tiny_rom_end
tiny_rom_end:
