//! Frames of an experimental protocol (IEEE 802), sent to a guest's card, of which a guest sees those that its card
//! lets pass; and those by which a guest tells the network where it is.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lab::{Error, Guest, Host, Shell, Task};

/// Writes down what the frames say.
const READ: &str = r#"
cat >/tmp/read.py <<'END'
import socket
frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
with open("/tmp/frames", "w", buffering=1) as seen:
    while True:
        seen.write(frames.recv(2048)[14:].decode().strip("\0") + "\n")
END
setsid python3 /tmp/read.py </dev/null >/dev/null 2>&1 &
for i in $(seq 100); do [ -e /tmp/frames ] && exit; sleep 0.1; done
exit 1"#;

/// Sends some to an interface: destination, VLAN or 0, what it says.
const SEND: &str = r#"
exec python3 - <<'END'
import socket, time
frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
frames.bind(("INTERFACE", 0))
for destination, vlan, text in [FRAMES]:
    tag = b"\x81\x00" + vlan.to_bytes(2, "big") if vlan else b""
    addresses = bytes.fromhex(destination.replace(":", "")) + b"\x02\0\0\0\0\x01"
    frames.send((addresses + tag + b"\x88\xb5" + text.encode()).ljust(60, b"\0"))
# Whatever way the others took.
time.sleep(0.3)
frames.send((b"\xff" * 6 + b"\x02\0\0\0\0\x01\x88\xb5" + b"LAST").ljust(60, b"\0"))
END"#;

/// Has a guest look out for them.
pub(crate) fn look_out(guest: &impl Shell) -> Result<(), Error> {
    guest.run(READ)?.stdout_if_ok().map(drop)
}

/// Which of these destinations, in a VLAN or in none (0), frames come to that are sent from the host's interface.
pub(crate) fn arrive<const N: usize>(
    host: &Host,
    interface: &str,
    guest: &impl Shell,
    destinations: [(&str, u16); N],
) -> Result<[bool; N], Error> {
    static ROUND: AtomicU32 = AtomicU32::new(0);
    let round = ROUND.fetch_add(1, Ordering::Relaxed);
    let texts: [String; N] = std::array::from_fn(|number| format!("frame {round}.{number}."));
    let frames = destinations.iter().zip(&texts);
    let frames: String = frames
        .map(|((destination, vlan), text)| format!("(\"{destination}\", {vlan}, \"{text}\"),"))
        .collect();
    let last = format!("last {round}.");
    let send = SEND.replace("INTERFACE", interface).replace("FRAMES", &frames);
    host.guest().run(&send.replace("LAST", &last))?.stdout_if_ok()?;
    let wait = format!(
        "for i in $(seq 100); do grep -q '{last}' /tmp/frames && break; sleep 0.1; done; cat /tmp/frames"
    );
    let seen = guest.run(&wait)?.stdout_if_ok()?;
    assert!(seen.contains(&last), "{seen}");
    Ok(texts.map(|text| seen.contains(&text)))
}

/// Waits for an ARP packet that asks for its sender's own address (RFC 5227, 3), and says from which station it was.
const ANNOUNCED: &str = r#"
exec python3 - <<'END'
import pathlib, socket
# Before the bridge has it, it is of no protocol yet.
everything = 3
frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(everything))
frames.bind(("INTERFACE", everything))
frames.settimeout(60)
pathlib.Path("/run/looks-out").touch()
while True:
    frame = frames.recv(2048)
    if frame[12:14] == b"\x08\x06" and frame[28:32] == frame[38:42]:
        break
print(frame[6:12].hex(":"))
END"#;

/// Somebody who waits on an interface of the host's until a guest tells where it is.
pub(crate) struct Announced<'a> {
    host: &'a Guest,
    task: Task,
}

impl<'a> Announced<'a> {
    pub(crate) fn on(host: &'a Host, interface: &str) -> Result<Announced<'a>, Error> {
        let host = host.guest();
        host.run("rm -f /run/looks-out")?;
        let task = host.start(&ANNOUNCED.replace("INTERFACE", interface))?;
        let ready =
            "for i in $(seq 100); do [ -e /run/looks-out ] && exit; sleep 0.1; done; exit 1";
        host.run(ready)?.stdout_if_ok()?;
        Ok(Announced { host, task })
    }

    /// The station that has told it.
    pub(crate) fn by(self) -> Result<String, Error> {
        let said = self.task.wait(self.host, Duration::from_secs(70))?.stdout_if_ok()?;
        Ok(said.trim().to_owned())
    }
}
