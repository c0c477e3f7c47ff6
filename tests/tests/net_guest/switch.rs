//! Two guests that a switch joins, and nothing else.

use lab::{Error, Host, Shell};
use serde_json::Value;

use super::card::{Card, qemu};

const PORTS: [&str; 2] = ["/run/a.sock", "/run/b.sock"];

/// The root filesystem for the second guest, which writes to its disk.
const DISK: &str = "qemu-img create -q -f qcow2 -F raw -b /dev/vdb /tmp/root.qcow2";
const VMM: &str = "--kernel /job/vmlinuz-linux-6.12 --initrd /job/initrd-linux-6.12 \
    --append 'console=ttyS0 panic=-1 quiet' --disk /tmp/root.qcow2 --cpus 2 \
    --vhost-user type=net,socket=/run/b.sock";

fn take_address(guest: &impl Shell, address: &str) -> Result<(), Error> {
    let script =
        format!("modprobe virtio_net && ip link set eth0 up && ip addr add {address}/24 dev eth0");
    guest.run(&script)?.stdout_if_ok().map(drop)
}

#[test]
fn a_guest_of_qemus_and_one_of_vmm_frontends_reach_each_other() -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder.memory(3072))?;
        let switch = Card::switch(&host, "switch", &PORTS)?;
        host.guest().run(DISK)?.stdout_if_ok()?;
        let first = host.boot_qemu_guest(&format!("-smp 2 {}", qemu(PORTS[0], 2, "mq=on")))?;
        take_address(&first, "192.0.2.1")?;
        first.run("iperf3 --server --daemon")?.stdout_if_ok()?;
        let second = host.boot_vmm_disk(VMM)?;
        take_address(&second, "192.0.2.2")?;
        second.run("ping -c 2 192.0.2.1")?.stdout_if_ok()?;
        for direction in ["", "--reverse"] {
            let script = format!("iperf3 --client 192.0.2.1 --json --time 3 {direction}");
            let said: Value = serde_json::from_str(&second.run(&script)?.stdout_if_ok()?).unwrap();
            let bits = said["end"]["sum_received"]["bits_per_second"].as_f64().unwrap();
            eprintln!("{direction} {bits:.0} bits a second");
            assert!(bits > 0.0, "{said}");
        }
        let cards = switch.ctl("list")?;
        assert_eq!(cards.as_array().map(Vec::len), Some(2), "{cards}");
        Ok(())
    })
}
