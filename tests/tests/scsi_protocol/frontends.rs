//! The messages of other projects' frontends, in their order.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use lab::{Error, Scsi, program, spawn};
use vhost::VhostBackend;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{FrontendReqHandler, VhostUserFrontend, VhostUserFrontendReqHandler};
use vmm_frontend::frontend::ring::RingFeatures;
use vmm_sys_util::eventfd::EventFd;

use crate::common::{
    ByHand, CHANGE, EVENT_INDEX, HOTPLUG, INDIRECT, LOG_ALL, PROTOCOL_FEATURES, RINGS, Sent,
    VERSION_1, io, one_disk, works,
};

const LINUX: RingFeatures = RingFeatures { event_index: true, indirect: true, packed: false };
const FIRMWARE: RingFeatures = RingFeatures { event_index: false, indirect: false, packed: false };
const LINUX_FEATURES: u64 = VERSION_1 | EVENT_INDEX | INDIRECT | HOTPLUG | CHANGE;

struct NoNotices;
impl VhostUserFrontendReqHandler for NoNotices {}

type Channel = FrontendReqHandler<NoNotices>;

fn channel(driver: &mut ByHand) -> Result<Channel, Error> {
    let channel = FrontendReqHandler::new(NoNotices.into());
    let channel = channel.map_err(|error| io("a channel", std::io::Error::other(error)))?;
    driver.messages.set_backend_request_fd(&channel.get_tx_raw_fd()).sent()?;
    Ok(channel)
}

fn features(driver: &mut ByHand, unwanted: VhostUserProtocolFeatures) -> Result<u64, Error> {
    let features = driver.messages.get_features().sent()?;
    assert_ne!(features & PROTOCOL_FEATURES, 0);
    let protocol = driver.messages.get_protocol_features().sent()?;
    driver.messages.set_protocol_features(protocol - unwanted).sent()?;
    Ok(features)
}

/// QEMU 10.0: vhost_dev_init in hw/virtio/vhost.c, vhost_user_backend_init in vhost-user.c. Event
/// descriptors of the rings come before there is memory; features are asked for twice.
fn qemu_init(driver: &mut ByHand) -> Result<Channel, Error> {
    // It has no use for the configuration space of vhost-user-scsi.
    features(driver, VhostUserProtocolFeatures::CONFIG)?;
    assert!(driver.messages.get_queue_num().sent()? >= RINGS as u64);
    assert!(driver.messages.get_max_mem_slots().sent()? >= 32);
    let channel = channel(driver)?;
    driver.messages.set_owner().sent()?;
    driver.messages.get_features().sent()?;
    for index in 0..RINGS {
        let events = driver.ring(index).events().clone();
        driver.messages.set_vring_call(index, &events.call).sent()?;
        driver.messages.set_vring_err(index, &events.error).sent()?;
    }
    Ok(channel)
}

/// vhost_scsi_common_start and vhost_dev_start, when the guest's driver is ready. Features are set
/// once for the in-flight region, and again. Rings whose addresses the driver has not set are
/// left out, and enabled all the same.
fn qemu_start(
    driver: &mut ByHand,
    rings: &[usize],
    features: u64,
    inflight: &mut Option<(VhostUserInflight, std::fs::File)>,
) -> Result<(), Error> {
    use std::os::fd::AsRawFd;
    let acked = features | PROTOCOL_FEATURES;
    driver.messages.set_features(acked).sent()?;
    if inflight.is_none() {
        let size = driver.ring(0).layout().size;
        let wanted = VhostUserInflight::new(0, 0, RINGS as u16, size);
        *inflight = Some(driver.messages.get_inflight_fd(&wanted).sent()?);
    }
    if let Some((region, file)) = inflight {
        driver.messages.set_inflight_fd(region, file.as_raw_fd()).sent()?;
    }
    driver.messages.set_features(acked).sent()?;
    // Memory alone is acknowledged.
    driver.messages.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    for region in driver.regions() {
        driver.messages.add_mem_region(&region).sent()?;
    }
    driver.messages.set_hdr_flags(VhostUserHeaderFlag::empty());
    for &index in rings {
        let addresses = driver.addresses(index);
        let events = driver.ring(index).events().clone();
        driver.messages.set_vring_num(index, addresses.queue_size).sent()?;
        driver.messages.set_vring_base(index, 0).sent()?;
        driver.messages.set_vring_addr(index, &addresses).sent()?;
        driver.messages.set_vring_kick(index, &events.kick).sent()?;
        driver.messages.set_vring_call(index, &events.call).sent()?;
    }
    for index in 0..RINGS {
        driver.messages.set_vring_enable(index, true).sent()?;
    }
    Ok(())
}

/// vhost_dev_stop; after a reset of the machine also RESET_DEVICE.
fn qemu_stop(driver: &mut ByHand, rings: &[usize]) -> Result<(), Error> {
    for index in 0..RINGS {
        driver.messages.set_vring_enable(index, false).sent()?;
    }
    for &index in rings {
        driver.messages.get_vring_base(index).sent()?;
    }
    Ok(())
}

#[test]
fn qemu() -> Result<(), Error> {
    let scsi = one_disk()?;
    let mut driver = ByHand::connect(&scsi, LINUX, 128)?;
    let _channel = qemu_init(&mut driver)?;
    qemu_start(&mut driver, &[0, 1, 2], LINUX_FEATURES, &mut None)?;
    works(&mut driver.request)?;
    // Migration begins: the log, the features, and the rings' addresses with the flag to log.
    let log = vmm_frontend::frontend::DirtyLog::new(&driver.space.memory).sent()?;
    let mut session = driver;
    set_log(&mut session, &log)?;
    session.messages.set_features(LINUX_FEATURES | PROTOCOL_FEATURES | LOG_ALL).sent()?;
    for index in 0..RINGS {
        let mut addresses = session.addresses(index);
        (addresses.flags, addresses.log_addr) = (1, Some(session.ring(index).layout().used));
        session.messages.set_vring_addr(index, &addresses).sent()?;
    }
    works(&mut session.request)?;
    assert!(!log.take().is_empty());
    qemu_stop(&mut session, &[0, 1, 2])
}

fn set_log(driver: &mut ByHand, log: &vmm_frontend::frontend::DirtyLog) -> Result<(), Error> {
    driver.messages.set_log_base(0, log.region()).sent()
}

/// libvirt opens the socket itself and passes both ends on: the device process gets a connected
/// socket. The firmware (SeaBIOS) then drives the first request queue alone, without optional
/// features, polling; the operating system comes after a stop.
#[test]
fn qemu_started_by_libvirt() -> Result<(), Error> {
    let files = Scsi::new()?.disk(16 << 20, "")?;
    let (stream, theirs) = UnixStream::pair().map_err(|source| io("a pair", source))?;
    let mut command = Command::new(program("vhost-scsi")?);
    command.arg("--fd=0").args(files.arguments()).stdin(Stdio::from(OwnedFd::from(theirs)));
    let mut process = spawn(command).map_err(|source| io("vhost-scsi", source))?;

    let mut firmware = ByHand::new(stream, FIRMWARE, 128)?;
    let _channel = qemu_init(&mut firmware)?;
    let mut inflight = None;
    qemu_start(&mut firmware, &[2], VERSION_1, &mut inflight)?;
    works(&mut firmware.request)?;
    qemu_stop(&mut firmware, &[2])?;
    firmware.messages.reset_device().sent()?;
    let old = firmware.regions();

    let mut linux = ByHand::new(firmware.stream, LINUX, 128)?;
    linux.messages = firmware.messages;
    for region in old {
        linux.messages.remove_mem_region(&region).sent()?;
    }
    qemu_start(&mut linux, &[0, 1, 2], LINUX_FEATURES, &mut inflight)?;
    works(&mut linux.request)?;
    qemu_stop(&mut linux, &[0, 1, 2])?;
    drop(linux);
    let ended = process.wait().map_err(|source| io("vhost-scsi", source))?;
    assert!(ended.success(), "the only connection is over: {ended}");
    Ok(())
}

/// cloud-hypervisor 50: negotiate_features_vhost_user and setup_vhost_user in
/// virtio-devices/src/vhost_user/vu_common_ctrl.rs. The owner comes first, everything is
/// acknowledged, sizes come before the in-flight region, and the channel comes last, after the
/// rings run.
#[test]
fn cloud_hypervisor() -> Result<(), Error> {
    use std::os::fd::AsRawFd;
    let scsi = one_disk()?;
    let mut driver = ByHand::connect(&scsi, LINUX, 256)?;
    driver.messages.set_owner().sent()?;
    features(&mut driver, VhostUserProtocolFeatures::DEVICE_STATE)?;
    driver.messages.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    driver.messages.get_queue_num().sent()?;
    driver.messages.set_features(LINUX_FEATURES | PROTOCOL_FEATURES | LOG_ALL).sent()?;
    driver.messages.set_mem_table(&driver.regions()).sent()?;
    for index in 0..RINGS {
        driver.messages.set_vring_num(index, 256).sent()?;
    }
    let wanted = VhostUserInflight::new(0, 0, RINGS as u16, 256);
    let (region, file) = driver.messages.get_inflight_fd(&wanted).sent()?;
    driver.messages.set_inflight_fd(&region, file.as_raw_fd()).sent()?;
    for index in 0..RINGS {
        let events = driver.ring(index).events().clone();
        driver.messages.set_vring_addr(index, &driver.addresses(index)).sent()?;
        driver.messages.set_vring_base(index, 0).sent()?;
        driver.messages.set_vring_call(index, &events.call).sent()?;
        driver.messages.set_vring_kick(index, &events.kick).sent()?;
    }
    for index in 0..RINGS {
        driver.messages.set_vring_enable(index, true).sent()?;
    }
    let _channel = channel(&mut driver)?;
    works(&mut driver.request)?;
    // Paused and resumed: rings are disabled and enabled, and nothing else.
    for enabled in [false, true] {
        for index in 0..RINGS {
            driver.messages.set_vring_enable(index, enabled).sent()?;
        }
    }
    works(&mut driver.request)
}

/// crosvm of 2025: VhostUserFrontend::new and activate in
/// devices/src/virtio/vhost_user_frontend/mod.rs. The channel comes before the features, nothing is
/// acknowledged, each ring is enabled at once, and the configuration space is read with a flag.
#[test]
fn crosvm() -> Result<(), Error> {
    let scsi = one_disk()?;
    let mut driver = ByHand::connect(&scsi, LINUX, 256)?;
    driver.messages.set_owner().sent()?;
    let unwanted = VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::LOG_SHMFD
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::RESET_DEVICE;
    features(&mut driver, unwanted)?;
    let _channel = channel(&mut driver)?;
    driver.messages.get_queue_num().sent()?;
    let flags = VhostUserConfigFlags::WRITABLE;
    let (_, config) = driver.messages.get_config(0, 4, flags, &[0; 4]).sent()?;
    assert_eq!(config, 64u32.to_le_bytes());
    driver.messages.set_features(LINUX_FEATURES | PROTOCOL_FEATURES).sent()?;
    driver.messages.set_mem_table(&driver.regions()).sent()?;
    // Queues without a vector share an event that nobody waits for.
    let unheard = EventFd::new(0).map_err(|source| io("an event", source))?;
    for index in 0..RINGS {
        let events = driver.ring(index).events().clone();
        let call = if index == 2 { &*events.call } else { &unheard };
        driver.messages.set_vring_num(index, 256).sent()?;
        driver.messages.set_vring_addr(index, &driver.addresses(index)).sent()?;
        driver.messages.set_vring_base(index, 0).sent()?;
        driver.messages.set_vring_call(index, call).sent()?;
        driver.messages.set_vring_kick(index, &events.kick).sent()?;
        driver.messages.set_vring_enable(index, true).sent()?;
    }
    works(&mut driver.request)?;
    // A reset stops each ring by itself.
    for index in 0..RINGS {
        driver.messages.set_vring_enable(index, false).sent()?;
        driver.messages.get_vring_base(index).sent()?;
    }
    Ok(())
}
