# An exception, and no handler for it, nor for that of not having one.
guest triple_fault
    pushl $0
    pushw $0
    lidt (%esp)
    xorl %eax, %eax
    divl %eax
