//! A guest's guest that moves from one QEMU to another, both in the lab's machine.

use std::time::Duration;

use serde_json::Value;

use super::nested::{CHANNEL, Nested, Shell, qemu};
use crate::Error;

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Two QEMUs can't have the port that leads to the lab open at once: this one has a socket.
const SOCKET: &str = "socket,id=channel,path=/run/$name.channel,server=on,wait=off";

/// Has it move, and the first QEMU end. What it says of the migration is printed.
const MOVE: &str = r#"
exec python3 - <<'END'
import json, os, socket, time

class Qmp:
    def __init__(self, path):
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(100)
        for _ in range(600):
            try:
                stream.connect(path)
                break
            except OSError:
                time.sleep(0.1)
        self.file = stream.makefile("rw")
        self.file.readline()
        self.execute("qmp_capabilities")

    def execute(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while "event" in (answer := json.loads(self.file.readline())):
            pass
        assert "return" in answer, (command, answer)
        return answer["return"]

destination = Qmp("DESTINATION")
source = Qmp("SOURCE")
# A guest that is as busy as its host is slow changes more than goes by default.
parameters = {"max-bandwidth": 1 << 33, "downtime-limit": 2000}
source.execute("migrate-set-parameters", **parameters)
source.execute("migrate", uri="unix:/run/migration")
while (state := source.execute("query-migrate"))["status"] not in ("completed", "failed"):
    time.sleep(0.2)
assert state["status"] == "completed", state
while not destination.execute("query-status")["running"]:
    time.sleep(0.1)
source.execute("quit")
# It removes its socket as it ends, and its name is free for the next.
while os.path.exists("SOURCE"):
    time.sleep(0.1)
print(json.dumps(state))
END"#;

/// Hands on what the lab and the guest say, once the first QEMU has let go of the port. It is connected before, or
/// the guest, as it arrives, would find its own port closed.
const RELAY: &str = r#"
for port in /sys/class/virtio-ports/*; do
    [ $(<$port/name) = $name ] && port=/dev/${port##*/} && break
done
exec python3 - $port /run/$name.channel <<'END'
import os, select, socket, sys, time

def retry(action):
    for _ in range(3000):
        try:
            return action()
        except OSError:
            time.sleep(0.1)

stream = socket.socket(socket.AF_UNIX)
retry(lambda: stream.connect(sys.argv[2]))
port = retry(lambda: os.open(sys.argv[1], os.O_RDWR))
while True:
    readable, _, _ = select.select([port, stream], [], [])
    if stream in readable:
        data = stream.recv(65536)
        if not data:
            break
        while data:
            data = data[os.write(port, data):]
    if port in readable:
        stream.sendall(os.read(port, 65536))
END"#;

impl Nested<'_> {
    /// Has a guest that [`boot_qemu_guest`](super::Host::boot_qemu_guest) booted live on in another QEMU, which has
    /// these arguments in place of those: a TAP or a socket of its own. Returns how long the guest stood still.
    ///
    /// # Errors
    /// It does not arrive.
    pub fn migrate(&mut self, arguments: &str) -> Result<Duration, Error> {
        let host = self.host.guest();
        let name = self.name;
        let paths = ["qmp", "moved.qmp"].map(|end| format!("/run/{name}.{end}"));
        let [first, other] = paths;
        let next = if self.qmp == first { other } else { first };
        let script = qemu(&next).replace(CHANNEL, SOCKET);
        // One that has moved before is still at the old one.
        host.run(&format!("rm -f /run/{name}.channel"))?;
        let incoming = "-incoming unix:/run/migration";
        let start =
            format!("name={name}\necho $$ >/run/$name.pid\n{script} {arguments} {incoming}");
        let destination = host.start(&start)?;
        host.start(&format!("name={name}\n{RELAY}"))?;
        let script = MOVE.replace("SOURCE", &self.qmp).replace("DESTINATION", &next);
        let moved = host.run_within(LIMIT, &script)?;
        if moved.status != 0 {
            let said = destination.wait(host, Duration::ZERO)?;
            eprintln!("{}{}", said.stdout(), said.stderr());
        }
        let said = moved.stdout_if_ok()?;
        (self.vmm, self.qmp) = (destination, next);
        let state: Value = serde_json::from_str(&said).unwrap_or_default();
        let doing = "reading QEMU's account of a migration".into();
        let downtime = state["downtime"].as_u64();
        let downtime = downtime.ok_or(Error::Protocol { doing, answer: said })?;
        // The agent answers: the way to it is there.
        self.run("true")?.stdout_if_ok()?;
        Ok(Duration::from_millis(downtime))
    }
}
