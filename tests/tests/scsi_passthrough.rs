//! Physical units in a guest: the lab's guest has them, and passes them through to a guest of its own.

use std::time::{Duration, Instant};

use lab::{Conformance, Error, Host, Nested, Shell};

const MINUTES: fn(u64) -> Duration = |minutes| Duration::from_secs(60 * minutes);

/// Functions for scripts on both sides: devices by the address H:C:T:L.
const FIND: &str = "
sg() { echo /dev/$(ls /sys/class/scsi_device/$1/device/scsi_generic); }
block() { echo /dev/$(ls /sys/class/scsi_device/$1/device/block); }
";

/// Three disks of scsi_debug (host 1), and LIO's file behind two loopback ports (hosts 2 and 3).
const UNITS: &str = "
modprobe scsi_debug dev_size_mb=64 max_luns=3 lbpu=1 lbpws=1 delay=0 opts=2
mkdir -p /var/target/pr # where LIO keeps reservations
modprobe -a target_core_mod target_core_file tcm_loop
mount -t configfs none /sys/kernel/config
cd /sys/kernel/config/target
mkdir -p core/fileio_0/unit
echo fd_dev_name=/tmp/unit.img,fd_dev_size=67108864,fd_buffered_io=1 >core/fileio_0/unit/control
echo 1 >core/fileio_0/unit/enable
echo 1 >core/fileio_0/unit/attrib/emulate_tpu
echo LAB1 >core/fileio_0/unit/wwn/vpd_unit_serial
for n in 1 2; do
    path=loopback/naa.500140500000000$n/tpgt_1
    mkdir -p $path
    echo naa.600140500000000$n >$path/nexus
    mkdir -p $path/lun/lun_0
    ln -s /sys/kernel/config/target/core/fileio_0/unit $path/lun/lun_0/port
done
sleep 1; lsscsi -g
";

/// Where a unit is in the lab's guest, and in that guest's guest.
#[derive(Clone, Copy)]
struct Unit {
    outer: &'static str,
    inner: &'static str,
}

const QEMU_DISK: Unit = Unit { outer: "0:0:0:0", inner: "0:0:0:0" };
const QEMU_CD: Unit = Unit { outer: "0:0:1:0", inner: "0:0:1:0" };
const DEBUG: Unit = Unit { outer: "1:0:0:0", inner: "0:0:2:0" };
const REMOVED: Unit = Unit { outer: "1:0:0:1", inner: "0:0:3:0" };
const LIO: Unit = Unit { outer: "2:0:1:0", inner: "0:0:4:0" };
/// The same file by another initiator's way.
const LIO_OTHER: &str = "3:0:1:0";

fn on(shell: &impl Shell, script: &str) -> Result<String, Error> {
    let output = shell.run(&format!("{FIND}{script}"))?;
    Ok(format!("{}{}", output.stdout(), output.stderr()))
}

fn serve(host: &Host, units: &[Unit]) -> Result<lab::Task, Error> {
    let mut arguments = String::new();
    for unit in units {
        let device = on(host.guest(), &format!("sg {}", unit.outer))?;
        arguments.push_str(&format!("--passthrough {} ", device.trim()));
    }
    host.serve(&arguments)
}

/// The lab's guest with all units, and vhost-scsi on them.
struct Setup {
    host: Host,
    process: lab::Task,
    _folder: tempfile::TempDir,
}

type Part = fn(&Host, &Nested) -> Result<(), Error>;

impl Setup {
    fn boot() -> Result<Setup, Error> {
        let folder =
            tempfile::tempdir().map_err(|source| Error::Io { what: "no folder".into(), source })?;
        let (disk, cd) = (folder.path().join("disk.img"), folder.path().join("cd.iso"));
        lab::make(&disk, 64 << 20)?;
        lab::make(&cd, 8 << 20)?;
        let host = Host::boot(|builder| {
            let disk = format!("if=none,id=hd,format=raw,file={}", disk.display());
            let cd = format!("if=none,id=cd,format=raw,readonly=on,file={}", cd.display());
            builder
                .args(["-device", "virtio-scsi-pci,id=units", "-drive", &disk, "-drive", &cd])
                .args(["-device", "scsi-hd,bus=units.0,scsi-id=0,drive=hd,serial=LAB0"])
                .args(["-device", "scsi-cd,bus=units.0,scsi-id=1,drive=cd,serial=LAB1"])
        })?;
        let units = host.guest().run(UNITS)?.stdout_if_ok()?;
        eprintln!("{units}");
        refused_without_permission(&host)?;
        let process = serve(&host, &[QEMU_DISK, QEMU_CD, DEBUG, REMOVED, LIO])?;
        Ok(Setup { host, process, _folder: folder })
    }

    fn test(parts: &[(&str, Part)]) -> Result<(), Error> {
        Host::test(|| Setup::boot()?.run(parts))
    }

    /// Boots the guest's guest, and does these parts one after the other.
    fn run(&self, parts: &[(&str, Part)]) -> Result<(), Error> {
        let Setup { host, process, .. } = self;
        let guest = &host.boot_guest()?;
        for (name, part) in parts {
            let started = Instant::now();
            part(host, guest).inspect_err(|_| eprintln!("it was {name}"))?;
            eprintln!("{name}: {:.0} s", started.elapsed().as_secs_f32());
        }
        assert_eq!(process.poll(host.guest())?, None, "vhost-scsi ended");
        assert!(guest.runs()?);
        Ok(())
    }
}

#[test]
fn physical_units_in_a_guest_s_guest() -> Result<(), Error> {
    Setup::test(&[
        ("a disk of QEMU's", |host, guest| same_answers(host, guest, QEMU_DISK, DISK).map(drop)),
        ("a CD of QEMU's", |host, guest| same_answers(host, guest, QEMU_CD, CD).map(drop)),
        ("a disk of scsi_debug's", |host, guest| same_answers(host, guest, DEBUG, DISK).map(drop)),
        ("errors", errors_are_the_unit_s),
        ("many commands", many_commands_at_once),
    ])
}

/// What disturbs a unit: another initiator, a reset, its end, and more than the host has memory for.
#[test]
#[ignore = "takes 5 minutes: cargo lab soak"]
fn physical_units_that_are_disturbed() -> Result<(), Error> {
    Setup::test(&[
        ("reservations", |host, guest| {
            let said = same_answers(host, guest, LIO, PERSISTENT)?;
            assert!(said.contains("Key=0x123abc"), "{said}");
            Ok(())
        }),
        ("a conflict", a_conflict_is_seen),
        ("large transfers", large_transfers),
        ("a reset", a_reset_ends_what_the_unit_forgot),
        ("a removed unit", a_unit_that_is_removed_gives_errors),
    ])
}

fn refused_without_permission(host: &Host) -> Result<(), Error> {
    let script = "cp /job/vhost-scsi /tmp && cd /tmp && sg=$(sg 0:0:0:0) && ls -l $sg >&2 && \
                  setpriv --reuid=65534 --clear-groups \
                  ./vhost-scsi --socket-path /tmp/none.sock --passthrough $sg";
    let output = host.guest().run(&format!("{FIND}{script}"))?;
    let said = output.stderr();
    assert_eq!(output.status, 1, "{said}");
    let sentence = "/dev/sg0: cannot be opened: Permission denied (os error 13)";
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.contains(sentence), "{said}");
    Ok(())
}

/// What changes something comes first, so that it is the same when the other side looks.
const DISK: &[&str] = &[
    "sg_unmap --lba=0 --num=8 $sg",
    "sg_write_same --16 --lba=16 --num=8 --in=/dev/zero $sg",
    "sg_write_same --10 --lba=32 --num=8 --in=/dev/zero $sg",
    "sg_get_lba_status $sg",
    "sg_inq $sg",
    "sg_vpd -a $sg",
    "sg_vpd -l $sg",
    "sg_vpd -p bl $sg | grep -v 'transfer length:'",
    "sg_readcap $sg",
    "sg_readcap -l $sg",
    "sg_modes -a $sg",
    "sg_logs -a $sg",
    "sg_opcodes $sg",
    "sg_turs -v $sg",
    "sg_requests $sg",
    "sg_sync $sg",
    "sg_verify --lba=0 --count=8 $sg",
    "sg_compare_and_write --lba=0 --num=1 --in=/dev/zero --inw=/dev/zero $sg",
    "sg_sanitize --block --quick --wait $sg",
    "sg_rtpg $sg",
    "sg_raw --request=300 $sg 12 00 00 00 24 00",
    "sg_raw --request=4096 $sg 12 01 00 00 ff 00",
    "sg_raw --send=512 --infile=/dev/zero $sg 2a 00 7f ff ff ff 00 00 01 00",
];

const CD: &[&str] = &[
    "sg_inq $sg",
    "sg_vpd -a $sg",
    "sg_readcap $sg",
    "sg_get_config $sg",
    "sg_modes -a $sg",
    "sg_rbuf -q $sg",
    "sg_turs -v $sg",
    "sg_raw --request=2048 $sg 43 00 00 00 00 00 00 00 14 00",
    "sg_dd if=$sg of=- bs=2048 count=64 | md5sum",
];

const PERSISTENT: &[&str] = &[
    "sg_persist --out --register --param-sark=123abc $sg",
    "sg_persist --out --reserve --param-rk=123abc --prout-type=5 $sg",
    "sg_persist --in --read-keys $sg",
    "sg_persist --in --read-reservation $sg",
    "sg_persist --in --read-full-status $sg",
    "sg_persist --in --report-capabilities $sg",
    "sg_persist --out --release --param-rk=123abc --prout-type=5 $sg",
    "sg_persist --out --register --param-rk=123abc --param-sark=0 $sg",
];

/// What commands print in the guest's guest is what they print where the unit is.
fn same_answers(
    host: &Host,
    guest: &Nested,
    unit: Unit,
    commands: &[&str],
) -> Result<String, Error> {
    let mut script = String::new();
    for command in commands {
        let shown = command.replace("$sg", "UNIT");
        script.push_str(&format!("echo '# {shown}'; ({command}) 2>&1 | sed s,$sg,UNIT,\n"));
        script.push_str("echo \"= ${PIPESTATUS[0]}\"\n");
    }
    let ask = |shell: &dyn Fn(&str) -> Result<String, Error>, id: &str| {
        // Attention for whatever happened before is no answer to these commands.
        shell(&format!(
            "sg=$(sg {id}); sg_turs $sg >/dev/null 2>&1; sg_turs $sg >/dev/null 2>&1\n{script}"
        ))
    };
    let outer = ask(&|script| on(host.guest(), script), unit.outer)?;
    let inner = ask(&|script| on(guest, script), unit.inner)?;
    let comparable = |text: &str| {
        let lines = text.lines().filter(|line| !differs_by_right(line));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let (outer, inner) = (comparable(&outer), comparable(&inner));
    assert!(outer.len() > 2 * commands.len(), "{}", outer.join("\n"));
    for (number, (there, here)) in outer.iter().zip(&inner).enumerate() {
        let command = outer[..=number].iter().rfind(|line| line.starts_with("# "));
        assert_eq!(there, here, "{}, line {number}, {command:?}", unit.outer);
    }
    assert_eq!(outer.len(), inner.len());
    eprintln!("{}: {} commands, {} lines the same", unit.outer, commands.len(), outer.len());
    Ok(inner.join("\n"))
}

/// Transfer lengths are kept within the host's; generations go on; and sg_sanitize prints memory as
/// the LU name that it did not set.
fn differs_by_right(line: &str) -> bool {
    ["Maximum transfer length:", "Optimal transfer length:", "LU name:", "PR generation"]
        .iter()
        .any(|field| line.contains(field))
}

/// scsi_debug's medium error (opts=2) is at LBA 1234h, for 10 blocks.
fn errors_are_the_unit_s(host: &Host, guest: &Nested) -> Result<(), Error> {
    let script = |id: &str| {
        format!(
            "sg=$(sg {id})\n\
             sg_raw --request=4096 $sg 88 0 0 0 0 0 0 0 12 30 0 0 0 8 0 0 2>&1 | grep -v '^ *[0-9a-f]* *$'\n\
             sg_raw --request=4096 $sg 88 0 0 0 0 0 0 0 12 20 0 0 0 4 0 0 2>&1 | grep -E 'Received|Status'\n\
             sg_dd if=$sg of=/dev/null bs=512 skip=4656 count=8 2>&1; true"
        )
    };
    let outer = on(host.guest(), &script(DEBUG.outer))?;
    let inner = on(guest, &script(DEBUG.inner))?;
    assert_eq!(inner, outer);
    assert!(inner.contains("Medium Error"), "{inner}");
    assert!(inner.contains("0x1234"), "the LBA: {inner}");
    assert!(inner.contains("Received 2048 bytes"), "4 blocks of 8 asked for: {inner}");
    Ok(())
}

/// Another initiator reserves the unit: this one's writes end in RESERVATION CONFLICT.
fn a_conflict_is_seen(host: &Host, guest: &Nested) -> Result<(), Error> {
    let reserve = format!(
        "sg=$(sg {LIO_OTHER}); again() {{ \"$@\" || \"$@\" || \"$@\" || \"$@\"; }}; \
         again sg_persist --out --register --param-sark=1 $sg && \
         again sg_persist --out --reserve --param-rk=1 --prout-type=5 $sg"
    );
    // Each attention that waits ends one command.
    host.guest().run(&format!("{FIND}{reserve}"))?.stdout_if_ok()?;
    let write = format!(
        "sg=$(sg {}); for i in 1 2; do \
         sg_raw --send=512 --infile=/dev/zero $sg 2a 0 0 0 0 0 0 0 1 0 2>&1; done; \
         sg_persist --in --read-reservation $sg",
        LIO.inner
    );
    let seen = on(guest, &write)?;
    assert!(seen.contains("Reservation Conflict"), "{seen}");
    assert!(seen.contains("Key=0x1"), "{seen}");
    let clear = format!("sg_persist --out --clear --param-rk=1 $(sg {LIO_OTHER})");
    on(host.guest(), &clear)?;
    let seen = on(guest, &write)?;
    assert!(seen.contains("SCSI Status: Good"), "{seen}");
    Ok(())
}

/// sg refuses more than 16 commands at once; a guest sends more.
fn many_commands_at_once(host: &Host, guest: &Nested) -> Result<(), Error> {
    let delay = |jiffies| format!("echo {jiffies} >/sys/bus/pseudo/drivers/scsi_debug/delay");
    on(host.guest(), &delay(20))?;
    let read = format!(
        "fio --name=many --filename=$(block {}) --rw=randread --bs=4k --iodepth=64 --size=2M \
         --ioengine=libaio --direct=1 --time_based --runtime=4 2>&1",
        DEBUG.inner
    );
    let output = guest.run(&format!("{FIND}{read}"))?;
    on(host.guest(), &delay(0))?;
    assert_eq!(output.status, 0, "{}", output.stdout());
    Ok(())
}

/// Transfers larger than the host takes at once, pieces of a page each, and buffers at odd addresses.
fn large_transfers(host: &Host, guest: &Nested) -> Result<(), Error> {
    for unit in [QEMU_DISK, LIO] {
        let write = format!(
            "set -e; disk=$(block {}); head -c 32M /dev/urandom >/tmp/data; \
             dd if=/tmp/data of=$disk bs=4M oflag=direct status=none; \
             dd if=$disk bs=4M count=8 iflag=direct status=none | cmp - /tmp/data; \
             cat /sys/block/${{disk#/dev/}}/queue/max_sectors_kb >&2; \
             md5sum </tmp/data; rm /tmp/data; \
             fio --name=odd --filename=$disk --offset=32M --size=16M --rw=randrw --bs=256k \
             --iomem_align=512 --ioengine=libaio --iodepth=8 --direct=1 --verify=crc32c \
             --verify_fatal=1 >&2",
            unit.inner
        );
        let output = guest.run_within(MINUTES(4), &format!("{FIND}{write}"))?;
        let sum = output.stdout_if_ok()?;
        let read = format!(
            "disk=$(block {}); blockdev --flushbufs $disk; \
             dd if=$disk bs=1M count=32 status=none | md5sum",
            unit.outer
        );
        assert_eq!(sum, on(host.guest(), &read)?, "{}", unit.outer);
    }
    Ok(())
}

/// The unit never answers a READ (10), and its adapter's driver does not end it at a reset either.
/// The reset is answered at once all the same, the command ends with it, and the unit's attention
/// comes once.
fn a_reset_ends_what_the_unit_forgot(host: &Host, guest: &Nested) -> Result<(), Error> {
    let forget = format!("echo '0 -1 0x28' >/sys/kernel/debug/scsi_debug/{}/error", DEBUG.outer);
    on(host.guest(), &forget)?;
    let read = format!(
        "setsid bash -c \"sg_read if=$(sg {}) bs=512 count=8 bpt=8\" >/tmp/read 2>&1 & sleep 2; \
         pgrep -c sg_read",
        DEBUG.inner
    );
    assert_eq!(on(guest, &read)?.trim(), "1", "the read is under way");
    let reset = format!(
        "sg=$(sg {}); begin=$SECONDS; sg_reset --device --no-esc $sg; echo status $?; \
         for i in $(seq 50); do pgrep -c sg_read >/dev/null || break; sleep 0.1; done; \
         [ $((SECONDS - begin)) -lt 30 ] && echo in time; cat /tmp/read; \
         for i in 1 2; do sg_raw $sg 0 0 0 0 0 0 2>&1 | grep -E 'Status|Unit'; done; \
         sg_read if=$sg bs=512 count=8 bpt=8 2>&1; true",
        DEBUG.inner
    );
    let seen = on(guest, &reset)?;
    assert!(seen.starts_with("status 0\nin time\n"), "{seen}");
    assert!(seen.contains("DID_RESET"), "the command's end: {seen}");
    assert_eq!(seen.matches("Unit Attention").count(), 1, "{seen}");
    assert!(seen.contains("SCSI Status: Good"), "{seen}");
    assert!(seen.contains("8+0 records in"), "the unit goes on: {seen}");
    Ok(())
}

fn a_unit_that_is_removed_gives_errors(host: &Host, guest: &Nested) -> Result<(), Error> {
    let remove = format!(
        "(sleep 4; echo 1 >/sys/class/scsi_device/{}/device/delete) >/dev/null 2>&1 &",
        REMOVED.outer
    );
    on(host.guest(), &remove)?;
    let io = format!(
        "disk=$(block {}); \
         fio --name=removed --filename=$disk --offset=4M --rw=randrw --bs=4k --iodepth=32 --ioengine=libaio \
         --direct=1 --time_based --runtime=30 >/tmp/fio 2>&1; echo status $?; \
         timeout 20 sg_turs -v $(sg {0}) 2>&1; timeout 20 sg_inq $(sg {0}) 2>&1; \
         sg_turs $(sg {1}); echo other $?",
        REMOVED.inner, DEBUG.inner
    );
    let seen = on(guest, &io)?;
    assert!(seen.starts_with("status 1\n"), "{seen}");
    assert!(seen.contains("DID_BAD_TARGET"), "{seen}");
    assert!(seen.contains("other 0"), "{seen}");
    Ok(())
}

/// scsi_debug's tape holds no data in this kernel: it is there, answers, and rewinds.
#[test]
fn a_tape_drive_in_a_guest_s_guest() -> Result<(), Error> {
    Host::test(a_tape_drive)
}

fn a_tape_drive() -> Result<(), Error> {
    let host = Host::boot(|builder| builder)?;
    host.guest().run("modprobe scsi_debug ptype=1 dev_size_mb=8; sleep 1")?.stdout_if_ok()?;
    let tape = Unit { outer: "0:0:0:0", inner: "0:0:0:0" };
    serve(&host, &[tape])?;
    let guest = host.boot_guest()?;
    let commands = [
        "lsscsi",
        "mt -f /dev/nst0 rewind",
        "mt -f /dev/nst0 status",
        "mt -f /dev/nst0 weof 1",
        "dd if=/dev/zero of=/dev/nst0 bs=10k count=1 status=none",
        "sg_inq $sg",
        "sg_vpd -a $sg",
        "sg_turs -v $sg",
        "sg_opcodes $sg",
        "sg_modes -a $sg",
    ];
    same_answers(&host, &guest, tape, &commands)?;
    let seen = on(&guest, "lsscsi -g; mt -f /dev/nst0 status")?;
    assert!(seen.contains("tape") && seen.contains("/dev/st0"), "{seen}");
    assert!(seen.contains("ONLINE"), "{seen}");
    Ok(())
}

#[test]
#[ignore = "takes 10 minutes: cargo lab soak"]
fn libiscsi_s_tests_give_what_they_give_on_the_unit_itself() -> Result<(), Error> {
    Host::test(libiscsi_s_tests)
}

fn libiscsi_s_tests() -> Result<(), Error> {
    let folder =
        tempfile::tempdir().map_err(|source| Error::Io { what: "no folder".into(), source })?;
    let disk = folder.path().join("disk.img");
    lab::make(&disk, 128 << 20)?;
    let host = Host::boot(|builder| {
        let drive = format!("if=none,id=hd,format=raw,file={}", disk.display());
        builder
            .args(["-device", "virtio-scsi-pci,id=units", "-drive", &drive])
            .args(["-device", "scsi-hd,bus=units.0,scsi-id=0,drive=hd,serial=LAB0"])
    })?;
    let mut times = Vec::new();
    let mut test = |shell: &dyn Fn() -> Result<Conformance, Error>| {
        let started = Instant::now();
        let result = shell()?;
        times.push(started.elapsed().as_secs());
        Ok::<_, Error>(result)
    };
    let outer = test(&|| Conformance::test(host.guest(), MINUTES(20), "/dev/sg0", "LINUX"))?;
    serve(&host, &[QEMU_DISK])?;
    let guest = host.boot_guest()?;
    let inner = test(&|| Conformance::test(&guest, MINUTES(20), "/dev/sg0", "LINUX"))?;
    let count = |run: &Conformance, result| run.with(result).len();
    eprintln!(
        "of {} tests: {} passed, {} skipped, {} failed; {times:?} s on the unit and passed through",
        outer.tests().len(),
        count(&outer, "passed"),
        count(&outer, "skipped"),
        count(&outer, "failed"),
    );
    assert!(outer.tests().len() > 100, "{}", outer.log);
    assert_eq!(inner.tests(), outer.tests(), "{}", inner.log);
    Ok(())
}
