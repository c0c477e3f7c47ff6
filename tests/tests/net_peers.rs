//! What network devices are tested by, tried by itself: raw packets on an interface of a network of the
//! test's own, and DPDK's testpmd, as the guest of DPDK's own device.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::net::{self, Header, Namespace, Packets, Testpmd, TestpmdBuilder};
use lab::{Error, Host, Kernel, Machine, Nested, Process, Shell, Version, spawn_listening};

const SECOND: Duration = Duration::from_secs(1);
/// An experimental protocol (IEEE 802), which no host answers.
const PROTOCOL: [u8; 2] = [0x88, 0xb5];

/// A frame of this size, of bytes that no other has.
fn frame(size: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(PROTOCOL);
    let mut state = size as u64;
    let noise = std::iter::repeat_with(|| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    });
    frame.extend(noise.take(size - 14));
    frame
}

/// The same, with source and destination exchanged.
fn swapped(frame: &[u8]) -> Vec<u8> {
    [&frame[6..12], &frame[..6], &frame[12..]].concat()
}

/// A TAP as a device has it: open, with headers, and with all offloads.
fn open_tap(name: &str) -> File {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
    let tap = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request[16..18].copy_from_slice(&(flags as u16).to_ne_bytes());
    // SAFETY: a struct ifreq has 40 bytes, a name and flags first; the second takes an integer: checksums, and TCP of both kinds.
    unsafe {
        assert_eq!(libc::ioctl(tap.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()), 0);
        assert_eq!(libc::ioctl(tap.as_raw_fd(), TUNSETOFFLOAD, 7 as libc::c_ulong), 0);
    }
    tap
}

#[test]
fn frames_and_segments_pass_a_tap() -> Result<(), Error> {
    let network = Namespace::new()?;
    let mut tap = network.enter(|| open_tap("tap0"))?;
    network.ip("link set tap0 mtu 9000 up")?;
    let packets = Packets::open(&network, "tap0")?;
    let mut bytes = vec![0; 70000];
    for size in [60, 1514, 9014] {
        packets.send(Header::default(), &frame(size))?;
        let read = tap.read(&mut bytes).unwrap();
        assert_eq!(bytes[10..read], frame(size));
        let answer = [&[0; 10], swapped(&frame(size)).as_slice()].concat();
        tap.write_all(&answer).unwrap();
        let (_, received) = packets.receive(SECOND)?.unwrap();
        assert_eq!(received, swapped(&frame(size)));
    }
    assert_eq!(packets.receive(Duration::ZERO)?, None);

    let (header, segments) = Header::tcp(&frame(60000), 1448)?;
    packets.send(header, &segments)?;
    let read = tap.read(&mut bytes).unwrap();
    assert_eq!(bytes[10..read], segments);
    tap.write_all(&bytes[..read]).unwrap();
    let (received, back) = packets.receive(SECOND)?.unwrap();
    assert_eq!((received.gso_type, received.segment_size), (Header::TCPV4, 1448));
    assert_eq!(back, segments);
    Ok(())
}

/// DPDK's device at a socket, on the other end of the interface `veth1` in the network. It could have a TAP,
/// but there would send no frame larger than 1518 bytes.
fn serve(network: &Namespace, socket: &Path, folder: &Path) -> Result<Process, Error> {
    let testpmd = Machine::dpdk(Version::Bookworm)?.testpmd();
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(testpmd.get_program()).args(testpmd.get_args());
    command.env("RUNTIME_DIRECTORY", folder);
    command.args(["--lcores", "(0-1)@(0-1)", "--no-huge", "-m", "256", "--no-pci"]);
    let port = "net_af_packet0,iface=veth0,blocksz=65536,framesz=16384,framecnt=512";
    command.args(["--no-telemetry", "--vdev", port]);
    command.arg("--vdev").arg(format!("net_vhost0,iface={},queues=2,tso=1", socket.display()));
    command.args(["--", "--auto-start", "--forward-mode=io", "--total-num-mbufs=4096"]);
    command.args(["--mbuf-size=16512"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    network.confine(&mut command)?;
    spawn_listening(command, socket)
}

#[test]
#[ignore = "shows that DPDK's two ends work with each other, which costs two processors"]
fn testpmd_sends_frames_back() -> Result<(), Error> {
    for version in [Version::Bookworm, Version::Sid] {
        // Without buffers that are merged, each has to have place for a frame.
        let large = "mrg_rxbuf=0";
        for ring in ["in_order=0", "in_order=1", "packed_vq=1", "packed_vq=1,in_order=0", large] {
            let buffers = if ring == large { "--mbuf-size=9728" } else { "--mbuf-size=2176" };
            sends_back(version, |guest| guest.driver(ring).arg(buffers))?;
        }
        sends_back(version, |guest| guest.queues(2))?;
        sends_back(version, |guest| guest.segments(1448))?;
    }
    Ok(())
}

fn sends_back(
    version: Version,
    how: impl Fn(TestpmdBuilder) -> TestpmdBuilder,
) -> Result<(), Error> {
    let network = Namespace::new()?;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("net.sock");
    network.ip("link add veth0 mtu 9000 type veth peer name veth1 mtu 9000")?;
    network.ip("link set veth0 up")?;
    network.ip("link set veth1 up")?;
    let _device = serve(&network, &socket, folder.path())?;
    let packets = Packets::open(&network, "veth1")?;
    let guest = how(Testpmd::at(&socket).version(version));
    let settings = format!("{guest:?}");
    let mut testpmd = guest.launch()?;
    testpmd.start()?;
    let started = Instant::now();
    for size in (60..=9014).step_by(50) {
        packets.send(Header::default(), &frame(size))?;
        let (_, back) = packets.receive(10 * SECOND)?.unwrap_or_else(|| panic!("{size}"));
        // With offloads, the addresses are others.
        assert_eq!(back[12..], frame(size)[12..], "{size}");
    }
    eprintln!("{settings}: {:?}, {:?}", started.elapsed(), testpmd.statistics()?);
    testpmd.quit()
}

/// passt, for a guest of the lab's machine, which has an address for it to hand on.
const PASST: &str = r#"
modprobe dummy
ip link add dummy0 type dummy
ip link set dummy0 up
ip addr add 192.0.2.2/24 dev dummy0
ip route add default via 192.0.2.1
iperf3 --server --daemon
install -d -o nobody /run/passt
tree=/job/passt
libraries=$tree/usr/lib/x86_64-linux-gnu
exec $libraries/ld-linux-x86-64.so.2 --library-path $libraries $tree/usr/bin/passt \
    --foreground --vhost-user --socket /run/passt/sock
"#;

/// The socket that passt listens on.
const PASST_LISTENS: &str =
    "for i in $(seq 300); do [ -S /run/passt/sock ] && exit; sleep 0.1; done; exit 1";

/// All that is done with a network, and its figures.
fn use_network(guest: &impl Shell, what: &str) -> Result<(), Error> {
    eprintln!("{what}: {}", net::lease(guest)?);
    for udp in ["", "--udp --bitrate 0 --length 64"] {
        for direction in ["", "--reverse"] {
            let arguments = format!("{udp} {direction}");
            eprintln!("{what} {arguments}: {:?}", net::measure(guest, 5, &arguments)?);
        }
    }
    Ok(())
}

#[test]
#[ignore = "figures of others, to compare with"]
fn a_guest_uses_a_network_of_its_hosts() -> Result<(), Error> {
    let arguments = "-netdev tap,id=net,ifname=tap0,script=no,downscript=no,vhost=off \
                     -device virtio-net-pci,netdev=net";
    let tap = "ip tuntap add tap0 mode tap vnet_hdr && ip link set tap0 master lan0 up";
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        net::make_lan(&host)?;
        host.guest().run(tap)?.stdout_if_ok()?;
        let guest = host.boot_qemu_guest(arguments)?;
        use_network(&guest, "QEMU's tap")?;
        // passt has no echo.
        guest.run(&format!("ping -c 3 {}", net::SERVER))?.stdout_if_ok().map(drop)
    })
}

#[test]
#[ignore = "figures of others, to compare with"]
fn a_guest_uses_passt() -> Result<(), Error> {
    const QEMU: &str = "-chardev socket,id=net,path=/run/passt/sock -netdev vhost-user,id=net,chardev=net \
                        -device virtio-net-pci,netdev=net";
    type Boot = fn(&Host) -> Result<Nested<'_>, Error>;
    let ways: [(&str, Boot); 3] = [
        ("QEMU", |host| host.boot_qemu_guest(QEMU)),
        ("libvirt", |host| net::boot_libvirt_guest(host, "/run/passt/sock", 1)),
        ("vmm-frontend", |host| {
            let arguments = "--vhost-user type=net,socket=/run/passt/sock";
            host.boot_vmm_guest(Kernel::Backports, "", arguments)
        }),
    ];
    for (what, boot) in ways {
        Host::test(|| {
            let host = Host::boot(|builder| builder)?;
            host.share(&Machine::passt()?, "passt")?;
            let _passt = host.guest().start(PASST)?;
            host.guest().run(PASST_LISTENS)?.stdout_if_ok()?;
            use_network(&boot(&host)?, &format!("passt under {what}"))
        })?;
    }
    Ok(())
}

/// A connection is kept while the guest moves to another QEMU, at another interface of the same network, and back.
#[test]
#[ignore = "shows that QEMU alone does it"]
fn a_connection_outlives_a_migration() -> Result<(), Error> {
    let tap = |number| {
        let name = format!("tap{number}");
        let make =
            format!("ip tuntap add {name} mode tap vnet_hdr && ip link set {name} master lan0 up");
        (
            make,
            format!(
                "-netdev tap,id=net,ifname={name},script=no,downscript=no,vhost=off -device virtio-net-pci,netdev=net"
            ),
        )
    };
    Host::test(|| {
        let host = Host::boot(|builder| builder.memory(3072))?;
        net::make_lan(&host)?;
        let ((make, first), (make_other, other)) = (tap(0), tap(1));
        host.guest().run(&format!("{make} && {make_other}"))?.stdout_if_ok()?;
        let mut guest = host.boot_qemu_guest(&first)?;
        net::lease(&guest)?;
        let start = format!("iperf3 --client {} --time 60 --json >/tmp/sent 2>&1 &", net::SERVER);
        guest.run(&start)?.stdout_if_ok()?;
        eprintln!("stood still for {:?}", guest.migrate(&other)?);
        eprintln!("and for {:?} on its way back", guest.migrate(&first)?);
        let wait = "for i in $(seq 1000); do pgrep iperf3 >/dev/null || break; sleep 0.1; done; cat /tmp/sent";
        let sent = guest.run(wait)?.stdout_if_ok()?;
        let sent: serde_json::Value = serde_json::from_str(&sent).unwrap();
        assert!(sent["error"].is_null(), "{sent}");
        let seconds = sent["end"]["sum_received"]["seconds"].as_f64().unwrap();
        assert!(seconds > 55.0, "{sent}");
        eprintln!("{} bits a second", sent["end"]["sum_received"]["bits_per_second"]);
        Ok(())
    })
}
