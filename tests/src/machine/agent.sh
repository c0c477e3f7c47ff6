# The guest's end of the lab's channel: runs one script after the other.
#   request: "SECONDS SCRIPT-SIZE INPUT-SIZE\n", the script, its standard input
#   or "\n", to which nothing is said
#   answer:  "STATUS STDOUT-SIZE STDERR-SIZE\n", what it printed to each
dir=/run/lab
for port in /sys/class/virtio-ports/*; do
    [ "$(<"$port/name")" = lab ] && exec 3<>"/dev/${port##*/}"
done
printf 'ready\n' >&3
while read -r -u 3 seconds script input; do
    [ "$seconds" ] || continue
    [ "$seconds" = end ] && break
    rm -f $dir/out $dir/err
    head -c "$script" <&3 >$dir/script
    head -c "$input" <&3 >$dir/in
    # Lines without a request wake the guest only if they are read.
    cat <&3 >/dev/null &
    timeout -k 1 "$seconds" bash $dir/script <$dir/in >$dir/out 2>$dir/err 3>&-
    status=$?
    kill $!
    wait $! 2>/dev/null
    out=$(stat -c %s $dir/out) err=$(stat -c %s $dir/err)
    { printf '%s %s %s\n' $status "$out" "$err"; head -c "$out" $dir/out; head -c "$err" $dir/err; } >&3
done
