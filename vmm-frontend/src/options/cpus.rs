//! `--cpus`.

use std::str::FromStr;

use super::Pairs;
use crate::cpu::topology::Topology;

/// How many processors, and how they are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpus(pub Topology);

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, rest) = text.split_once(',').unwrap_or((text, ""));
        let (count, pairs) = match first.parse::<u32>() {
            Ok(count) => (Some(count), rest),
            Err(_) if text.is_empty() => return Err(String::from("write a number, as in 4")),
            Err(_) => (None, text),
        };
        if let Some(count) = count.filter(|count| !(1..=Topology::MAX).contains(count)) {
            return Err(format!("{count} processors: there can be 1 to {}", Topology::MAX));
        }
        let pairs = Pairs::parse(pairs, &["sockets", "cores", "threads"])
            .map_err(|why| format!("{why} (write 4, or sockets=1,cores=2,threads=2)"))?;
        let number = |key| pairs.number(key, 1..=64).map(|number| number.map(u32::from));
        let (sockets, cores, threads) = (number("sockets")?, number("cores")?, number("threads")?);
        // What is not said is 1, but the sockets, which are as many as are needed.
        let (cores, threads) = (cores.unwrap_or(1), threads.unwrap_or(1));
        let sockets = match (sockets, count) {
            (Some(sockets), _) => sockets,
            (None, Some(count)) => count / (cores * threads),
            (None, None) => 1,
        };
        let topology = Topology::new(sockets, cores, threads).map_err(|error| error.to_string())?;
        match count {
            Some(count) if count != topology.processors() => Err(format!(
                "sockets={sockets},cores={cores},threads={threads} are {} processors, not {count}",
                topology.processors()
            )),
            _ => Ok(Self(topology)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_a_topology() {
        let of = |sockets, cores, threads| Cpus(Topology::new(sockets, cores, threads).unwrap());
        for (text, cpus) in [
            ("4", of(4, 1, 1)),
            ("cores=2,threads=2", of(1, 2, 2)),
            ("8,cores=2,threads=2", of(2, 2, 2)),
            ("8,sockets=1,cores=8", of(1, 8, 1)),
        ] {
            assert_eq!(text.parse(), Ok(cpus), "{text}");
        }
        for wrong in
            ["0", "65", "", "x", "-1", "4,cores=3", "cores=0", "8,sockets=2,cores=2", "1.5"]
        {
            assert!(wrong.parse::<Cpus>().is_err(), "{wrong}");
        }
    }
}
