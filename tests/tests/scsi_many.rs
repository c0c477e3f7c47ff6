//! Many units on one controller, and every QEMU that people have.

use std::time::{Duration, Instant};

use lab::{Error, Guest, Machine, Root, Scsi, Version};

#[test]
fn a_thousand_units() -> Result<(), Error> {
    let mut scsi = Scsi::new()?;
    let image = scsi.folder().join("shared.img");
    lab::make(&image, 1 << 20)?;
    for number in 0..1000 {
        let (target, lun) = (number / 250, number % 250);
        let place = format!("target={target},lun={lun},readonly=on,serial=N{number}");
        scsi = scsi.arg("--disk").arg(format!("{},{place}", image.display()));
    }
    lab::program("vhost-scsi")?;
    let started = Instant::now();
    let scsi = scsi.start()?;
    eprintln!("1,000 units: {:.2} s to listen", started.elapsed().as_secs_f32());
    eprintln!("resident: {} KiB", scsi.resident()?);
    assert!(scsi.resident()? < 40 << 10);
    let guest = Guest::builder()
        .vhost_user_scsi(scsi.controller())
        .memory(2048)
        .boot_limit(Duration::from_secs(400))
        .boot()?;
    // The kernel goes on looking while the guest is up.
    let wait = "for i in $(seq 240); do n=$(lsscsi | grep -c 'VIRTUAL DISK'); \
                [ $n = 1000 ] && break; sleep 1; done; echo $n";
    let seen = guest.run_within(Duration::from_secs(300), wait)?.stdout_if_ok()?;
    assert_eq!(seen.trim(), "1000");
    let address = guest.run("lsscsi | tail -1")?.stdout_if_ok()?;
    assert!(address.contains(":0:3:249]"), "{address}");
    Ok(())
}

#[test]
fn every_qemu_boots_with_its_root_on_a_disk() -> Result<(), Error> {
    for version in Version::ALL {
        let scsi = Scsi::new()?;
        let root = scsi.folder().join("root.img");
        Machine::ensure()?.copy_root_image(&root)?;
        let scsi = scsi.arg("--disk").arg(format!("{}", root.display())).start()?;
        let guest = Guest::builder()
            .qemu(version)
            .root(Root::Attached)
            .vhost_user_scsi(scsi.controller().queues(2))
            .boot()?;
        let seen = guest.run("findmnt --noheadings --output SOURCE /; lsscsi")?.stdout_if_ok()?;
        assert!(seen.starts_with("/dev/sda") && seen.contains("VHOST"), "{version:?}: {seen}");
        guest.shut_down()?;
    }
    Ok(())
}
