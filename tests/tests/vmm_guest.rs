//! vmm-frontend boots stock Debian, with its root on a disk of vhost-scsi, in a guest that is a host.

use std::time::Duration;

use lab::{Error, Host, Nested, Shell};

const MINUTE: Duration = Duration::from_secs(60);

/// Runs a test of a guest that has these arguments more.
fn guest(
    arguments: &str,
    test: impl Fn(&Host, &Nested<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        host.guest().run("truncate -s 64M /tmp/data.img")?.stdout_if_ok()?;
        let guest = host.boot_vmm_guest(arguments)?;
        test(&host, &guest)
    })
}

/// Random writes and reads, each block with its own checksum. The disk is the second target, which
/// may be the first that Linux names.
const VERIFY: &str = "
disk=/dev/$(ls /sys/class/scsi_device/*:0:1:0/device/block) || exit 1
mkfs.ext4 -q $disk && mount $disk /mnt && dmesg -C || exit 1
fio --name=verify --directory=/mnt --size=16M --rw=randrw --bs=4k-64k --iodepth=16 \
    --ioengine=libaio --direct=1 --fsync=64 --verify=crc32c --verify_backlog=256 \
    --verify_fatal=1 --time_based --runtime=$SECONDS_OF_LOAD || exit 1
! dmesg | grep -E 'I/O error|Buffer I/O|EXT4-fs error|blk_update_request' || exit 1
umount /mnt && fsck.ext4 -fn $disk";

fn load(seconds: u32) -> String {
    VERIFY.replace("$SECONDS_OF_LOAD", &seconds.to_string())
}

#[test]
fn a_guest_uses_its_disks_and_switches_itself_off() -> Result<(), Error> {
    guest("--disk /tmp/data.img", |_, guest| {
        let said =
            guest.run("uname -r; cat /sys/block/sda/device/vendor; nproc")?.stdout_if_ok()?;
        assert!(said.contains("VHOST"), "{said}");
        guest.run_within(5 * MINUTE, &load(20))?.stdout_if_ok()?;
        guest.run("(sleep 1; echo o >/proc/sysrq-trigger) &")?;
        let said = guest.wait(2 * MINUTE)?;
        assert_eq!(said.status, 0, "{}", said.stderr());
        Ok(())
    })
}

#[test]
fn four_processors_and_killed_device_processes() -> Result<(), Error> {
    guest("--disk /tmp/data.img --cpus 4", |host, guest| {
        assert_eq!(guest.run("nproc")?.stdout_if_ok()?, "4\n");
        // Between one and the next the disk is used, or the next would kill what serves nobody.
        let kill = "for i in $(seq 5); do sleep 6; pkill -9 vhost-scsi; done";
        let killer = host.guest().start(kill)?;
        guest.run_within(10 * MINUTE, &load(40))?.stdout_if_ok()?;
        killer.wait(host.guest(), MINUTE)?.stdout_if_ok()?;
        Ok(())
    })
}
