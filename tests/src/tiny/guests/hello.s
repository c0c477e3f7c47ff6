# Says hello, and switches the machine off.
guest hello
    say "hello\n"
    power_off
