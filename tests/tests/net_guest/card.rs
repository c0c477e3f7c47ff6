//! A card: a vhost-net process in the lab's machine, and what it says of itself.

use std::time::Duration;

use lab::{Error, Host};
use serde_json::Value;

/// Of the processes of a card, the last one serves; the first starts it again. Another one serves at the end.
const KILL: &str = r#"
processes() {
    for process in $(pgrep --full 'vhost-net .*CONTROL'); do
        [ $(</proc/$process/comm) = vhost-net ] && echo $process
    done
}
before=($(processes))
[ ${#before[*]} -ge 2 ] && kill -9 ${before[-1]} || exit 1
for i in $(seq 100); do
    now=($(processes))
    [ ${#now[*]} = ${#before[*]} ] && [ ${now[-1]} != ${before[-1]} ] && exit
    sleep 0.1
done
exit 1"#;

/// A card, by its name: it is at `/run/NAME.sock`, and listens for commands at `/run/NAME.ctl`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Card<'a> {
    host: &'a Host,
    name: &'a str,
}

impl<'a> Card<'a> {
    /// A card of a process that somebody else starts.
    pub(crate) fn at(host: &'a Host, name: &'a str) -> Card<'a> {
        Card { host, name }
    }

    /// Starts a process with these arguments, by the name of the card.
    pub(crate) fn start(host: &'a Host, name: &'a str, arguments: &str) -> Result<Self, Error> {
        let card = Card::at(host, name);
        let start = format!("exec /job/vhost-net --socket-path {} {arguments}", card.socket());
        card.serve(&start, &[&card.socket()])?;
        Ok(card)
    }

    /// Starts a process by this script, with a control socket, which is to listen at these sockets.
    fn serve(self, script: &str, sockets: &[&str]) -> Result<(), Error> {
        let serves = self.host.guest().start(&format!("{script} --control {}", self.control()))?;
        for socket in sockets {
            let wait =
                format!("for i in $(seq 100); do [ -S {socket} ] && exit; sleep 0.1; done; exit 1");
            if self.host.guest().run(&wait)?.status != 0 {
                let said = serves.wait(self.host.guest(), Duration::ZERO)?;
                panic!("{} does not listen: {}{}", self.name, said.stdout(), said.stderr());
            }
        }
        Ok(())
    }

    /// Starts a process with the interface of the card's name.
    pub(crate) fn on_tap(host: &'a Host, name: &'a str, arguments: &str) -> Result<Self, Error> {
        make_tap(host, name)?;
        Card::start(host, name, &format!("--tap {name} {arguments}"))
    }

    /// Starts a switch of these ports.
    pub(crate) fn switch(host: &'a Host, name: &'a str, ports: &[&str]) -> Result<Self, Error> {
        let card = Card::at(host, name);
        let arguments: Vec<String> = ports.iter().map(|port| format!("--switch {port}")).collect();
        card.serve(&format!("exec /job/vhost-net {}", arguments.join(" ")), ports)?;
        Ok(card)
    }

    pub(crate) fn socket(&self) -> String {
        format!("/run/{}.sock", self.name)
    }

    pub(crate) fn control(&self) -> String {
        format!("/run/{}.ctl", self.name)
    }

    /// QEMU's arguments for it, with these of the device.
    pub(crate) fn qemu(&self, queues: u16, device: &str) -> String {
        qemu(&self.socket(), queues, device)
    }

    /// What it answers when told `words`.
    pub(crate) fn ctl(&self, words: &str) -> Result<Value, Error> {
        let command = format!("/job/vhost-net ctl --control {} --json {words}", self.control());
        let answer = self.host.guest().run(&command)?.stdout_if_ok()?;
        let wrong = |_| Error::Protocol { doing: command, answer: answer.clone() };
        serde_json::from_str(&answer).map_err(wrong)
    }

    /// What it says of the card.
    pub(crate) fn describe(&self) -> Result<Value, Error> {
        Ok(self.ctl("list")?[0].take())
    }

    /// What each pair of queues has counted: `receive` or `transmit`, then which number.
    pub(crate) fn count(&self, direction: &str, what: &str) -> Result<Vec<u64>, Error> {
        let stats = self.ctl("stats")?;
        let pairs = stats[0]["pairs"].as_array().expect("pairs");
        Ok(pairs.iter().map(|pair| pair[direction][what].as_u64().expect("a number")).collect())
    }

    /// Kills the process that serves.
    pub(crate) fn kill(&self) -> Result<(), Error> {
        let kill = KILL.replace("CONTROL", &self.control());
        self.host.guest().run(&kill)?.stdout_if_ok().map(drop)
    }
}

/// QEMU's arguments for the card at a socket.
pub(crate) fn qemu(socket: &str, queues: u16, device: &str) -> String {
    format!(
        "-chardev socket,id=net,path={socket},reconnect-ms=500 \
         -netdev vhost-user,id=net,chardev=net,queues={queues} \
         -device virtio-net-pci,netdev=net,{device}"
    )
}

/// Makes an interface in the network of the lab's machine.
pub(crate) fn make_tap(host: &Host, name: &str) -> Result<(), Error> {
    let make = format!(
        "ip tuntap add {name} mode tap multi_queue vnet_hdr && ip link set {name} master lan0 up"
    );
    host.guest().run(&make)?.stdout_if_ok().map(drop)
}
