//! A network in the lab's machine, to which guests of its own are connected: an address for each, and a server to
//! measure with.

use serde_json::Value;
use std::time::Duration;

use crate::{Error, Host, Shell};

/// The lab's machine in that network.
pub const SERVER: &str = "192.0.2.1";

const MAKE: &str = "
modprobe -a bridge tun && ip link add lan0 type bridge || exit 1
# A bridge without ports has no link, and the server of addresses would not start.
ip link set lan0 up && ip addr add 192.0.2.1/24 dev lan0 || exit 1
cat >/run/udhcpd.conf <<END
start 192.0.2.16
end 192.0.2.31
interface lan0
lease_file /run/udhcpd.leases
pidfile /run/udhcpd.pid
option subnet 255.255.255.0
option router 192.0.2.1
END
touch /run/udhcpd.leases
busybox udhcpd -S /run/udhcpd.conf || exit 1
iperf3 --server --daemon";

/// Its own script, since busybox has none.
const LEASE: &str = r#"
modprobe virtio_net || exit 1
for i in $(seq 100); do [ -e /sys/class/net/$card ] && break; sleep 0.1; done
ip link set "$card" up || exit 1
cat >/run/udhcpc <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr replace "$ip/$mask" dev "$interface"
[ -z "$router" ] || ip route replace default via "$router"
END
chmod +x /run/udhcpc
busybox udhcpc --interface "$card" --now --quit --foreground --script /run/udhcpc >&2 || exit 1
ip -4 -brief addr show dev "$card" | tr -s ' ' | cut -d ' ' -f 3 | cut -d / -f 1"#;

/// What iperf3 has measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Bits of payload in a second, at the receiver.
    pub bits_per_second: f64,
    /// Packets in a second, at the receiver; of UDP only.
    pub packets_per_second: f64,
    /// Of a hundred packets, so many were lost; of UDP only.
    pub lost_percent: f64,
}

/// Makes the network in the lab's machine: a bridge `lan0` for the interfaces of guests, a DHCP server, and iperf3's.
///
/// # Errors
/// Something of it can't be had; the error has what was said.
pub fn make_lan(host: &Host) -> Result<(), Error> {
    host.guest().run(MAKE)?.stdout_if_ok().map(drop)
}

/// Has a guest load its driver, and ask the network for an address for its first interface, which is returned.
///
/// # Errors
/// It has no interface, or gets no address.
pub fn lease(guest: &impl Shell) -> Result<String, Error> {
    lease_for(guest, "eth0")
}

/// As [`lease`], for the interface of this name.
///
/// # Errors
/// As there.
pub fn lease_for(guest: &impl Shell, interface: &str) -> Result<String, Error> {
    let script = format!("card={interface}\n{LEASE}");
    Ok(guest.run(&script)?.stdout_if_ok()?.trim().to_owned())
}

/// Runs iperf3 for some seconds in a guest, against the lab's machine, with these arguments more: `--reverse`, or
/// `--udp --bitrate 0 --length 64`.
///
/// # Errors
/// It fails, or says what is not understood.
pub fn measure(guest: &impl Shell, seconds: u32, arguments: &str) -> Result<Measured, Error> {
    let script = format!("iperf3 --client {SERVER} --json --time {seconds} {arguments}");
    let limit = Duration::from_secs(u64::from(seconds) + 120);
    let said = guest.run_within(limit, &script)?.stdout_if_ok()?;
    measured(&said)
}

/// What the output of iperf3, in JSON, comes to.
fn measured(said: &str) -> Result<Measured, Error> {
    let wrong = || Error::Protocol { doing: "reading iperf3's output".into(), answer: said.into() };
    let result: Value = serde_json::from_str(said).map_err(|_| wrong())?;
    let number = |value: &Value| value.as_f64().ok_or_else(wrong);
    let end = &result["end"];
    if end["sum"]["packets"].is_null() {
        let bits_per_second = number(&end["sum_received"]["bits_per_second"])?;
        return Ok(Measured { bits_per_second, packets_per_second: 0.0, lost_percent: 0.0 });
    }
    let udp = &end["sum"];
    let arrived = number(&udp["packets"])? - number(&udp["lost_packets"])?;
    let arrived_share = 1.0 - number(&udp["lost_percent"])? / 100.0;
    Ok(Measured {
        bits_per_second: number(&udp["bits_per_second"])? * arrived_share,
        packets_per_second: arrived / number(&udp["seconds"])?,
        lost_percent: number(&udp["lost_percent"])?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_iperf3_says_is_understood() {
        let tcp = r#"{"end": {"sum_sent": {"bits_per_second": 9}, "sum_received": {"bits_per_second": 8.5}}}"#;
        assert_eq!(measured(tcp).unwrap().bits_per_second, 8.5);
        let udp = r#"{"end": {"sum": {"bits_per_second": 1000, "packets": 300, "lost_packets": 75,
            "lost_percent": 25, "seconds": 3}}}"#;
        let expected =
            Measured { bits_per_second: 750.0, packets_per_second: 75.0, lost_percent: 25.0 };
        assert_eq!(measured(udp).unwrap(), expected);
        assert!(measured(r#"{"error": "unable to connect"}"#).is_err());
    }
}
