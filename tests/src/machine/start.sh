#!/bin/bash
# The guest's process 1: what a service manager would set up, then the agent or a shell.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=${TERM:-linux}
cd /root
mount -t tmpfs tmp /tmp
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t debugfs debug /sys/kernel/debug
ip link set lo up
hostname lab
read -r line </proc/cmdline

case " $line " in *" lab.folder "*)
    modprobe -a 9pnet_virtio 9p
    mkdir -p /run/lab/folder && ln -sfn /run/lab/folder /job
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 job /run/lab/folder ;;
esac
case " $line " in
    *" lab.shell "*) setsid -c bash -l <>/dev/ttyS0 >&0 2>&1 ;;
    *) bash /run/lab/agent ;;
esac
sync
echo o >/proc/sysrq-trigger
sleep 60
