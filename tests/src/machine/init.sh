#!/busybox sh
# The initrd's init. The root filesystem may be on any disk: it is found by its label.
b=/busybox
$b mkdir -p /proc /sys /dev /mnt
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do $b insmod "/modules/$module"; done

# An ext4 superblock starts at 1024; the label is 120 bytes into it.
root=
while [ -z "$root" ]; do
    for disk in /dev/vd? /dev/sd*; do
        [ -b "$disk" ] || continue
        label=$($b dd if="$disk" bs=1 skip=1144 count=8 2>/dev/null)
        [ "$label" = lab-root ] && root=$disk && break
    done
    [ -n "$root" ] || $b sleep 0.1
done
$b mount -t ext4 -o noatime "$root" /mnt || $b mount -t ext4 -o ro,noatime "$root" /mnt

for dir in proc sys dev; do $b mount --move /$dir /mnt/$dir; done
$b mount -t tmpfs run /mnt/run
$b mkdir /mnt/run/lab
$b cp /start /agent /mnt/run/lab/
case " $($b cat /mnt/proc/cmdline) " in *" lab.systemd "*)
    units=/mnt/run/systemd/system
    $b mkdir -p $units/getty.target.wants
    printf '[Service]\nExecStart=bash /run/lab/agent\n' >$units/lab.service
    $b ln -s ../lab.service $units/getty.target.wants/
    exec $b switch_root /mnt /sbin/init ;;
esac
exec $b switch_root /mnt /run/lab/start
