//! A vhost-scsi process dies and is started again, or hands over to another: the guest notices
//! nothing.

use std::thread;
use std::time::{Duration, Instant};

use lab::{Error, Guest, Scsi};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);

/// Random writes and reads, each block with its own checksum, a few seconds at a time until
/// [`STOP`].
const VERIFY: &str = "
while [ ! -e /tmp/stop ]; do
    fio --name=verify --directory=/mnt --size=32M --rw=randrw --bs=4k-64k --iodepth=16 \
        --ioengine=libaio --direct=1 --fsync=64 --verify=crc32c --verify_backlog=256 \
        --verify_fatal=1 --time_based --runtime=8 || exit 1
done
! dmesg | grep -E 'I/O error|Buffer I/O|EXT4-fs error|blk_update_request'
";
const STOP: &str = "touch /tmp/stop";

const MAKE: &str = "mkfs.ext4 -q /dev/sda && mount /dev/sda /mnt && dmesg -C";
const CHECK: &str = "umount /mnt && fsck.ext4 -fn /dev/sda";

fn killed(
    times: u32,
    seconds: u32,
    packed: bool,
    kill: fn(&mut Scsi) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut scsi = Scsi::new()?.disk(128 << 20, "")?.start()?;
    let controller = scsi.controller().queues(2).reconnect(Duration::from_millis(200));
    let controller = if packed { controller.packed() } else { controller };
    let guest = Guest::builder().vhost_user_scsi(controller).boot()?;
    guest.run(MAKE)?.stdout_if_ok()?;
    let task = guest.start(VERIFY)?;
    let pause = Duration::from_secs(seconds.into()) / (times + 1);
    for _ in 0..times {
        thread::sleep(pause);
        assert!(task.poll(&guest)?.is_none(), "the guest's I/O ended before its time");
        kill(&mut scsi)?;
    }
    thread::sleep(pause);
    guest.run(STOP)?.stdout_if_ok()?;
    task.wait(&guest, 5 * MINUTE)?.stdout_if_ok()?;
    guest.run(CHECK)?.stdout_if_ok()?;
    Ok(())
}

#[test]
fn a_killed_process_is_replaced_under_load() -> Result<(), Error> {
    killed(5, 25, false, Scsi::restart)
}

/// With packed rings, of which QEMU does not know how far the dead process was.
#[test]
fn a_supervisor_replaces_a_killed_process_under_load() -> Result<(), Error> {
    killed(5, 25, true, |scsi| scsi.kill_serving())
}

#[test]
#[ignore = "takes 3 minutes: cargo lab soak"]
fn a_process_is_killed_twenty_times_in_three_minutes() -> Result<(), Error> {
    killed(20, 180, true, Scsi::restart)
}

fn migrate(times: u32) -> Result<(), Error> {
    let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
    let source_scsi = Scsi::new()?.disk(128 << 20, "")?.start()?;
    let mut source =
        Guest::builder().vhost_user_scsi(source_scsi.controller().queues(2)).memory(512).boot()?;
    source.run(MAKE)?.stdout_if_ok()?;
    let task = source.start(VERIFY)?;
    let mut processes = vec![source_scsi];
    for number in 0..times {
        let Some(first) = processes.first() else { break };
        let next = Scsi::new()?.same_images_as(first).start()?;
        let controller = next.controller().queues(2);
        let destination =
            Guest::builder().vhost_user_scsi(controller).memory(512).incoming().boot()?;
        thread::sleep(Duration::from_secs(3));
        let uri = format!("unix:{}", next.folder().join("migration").display());
        destination.qmp("migrate-set-capabilities", events.clone())?;
        destination.qmp("migrate-incoming", json!({ "uri": uri }))?;
        let started = Instant::now();
        source.qmp("migrate", json!({ "uri": uri }))?;
        while destination.wait_event("MIGRATION", MINUTE)?["status"] != "completed" {}
        eprintln!("migration {} took {:.1} s", number + 1, started.elapsed().as_secs_f32());
        assert!(task.poll(&destination)?.is_none(), "I/O ended before the migration did");
        source = destination;
        processes.push(next);
    }
    source.run(STOP)?.stdout_if_ok()?;
    task.wait(&source, 5 * MINUTE)?.stdout_if_ok()?;
    source.run(CHECK)?.stdout_if_ok()?;
    Ok(())
}

#[test]
fn a_guest_migrates_under_load_to_another_process() -> Result<(), Error> {
    migrate(1)
}

#[test]
#[ignore = "takes 2 minutes: cargo lab soak"]
fn a_guest_migrates_five_times_under_load() -> Result<(), Error> {
    migrate(5)
}
