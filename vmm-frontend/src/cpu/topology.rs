//! Sockets, cores and threads, and the APIC ids that follow from them.

use thiserror::Error;

/// How many virtual processors there are, and how they are placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    sockets: u32,
    cores: u32,
    threads: u32,
}

/// Why there is no such topology.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TopologyError {
    /// A number is zero.
    #[error("sockets={0},cores={1},threads={2}: each must be 1 or more")]
    Zero(u32, u32, u32),
    /// They make too many.
    #[error("sockets={0},cores={1},threads={2}: no more than {max} processors", max = Topology::MAX)]
    TooMany(u32, u32, u32),
}

impl Topology {
    /// The largest number of virtual processors. Since the fields of an APIC id at most double the
    /// room that each number needs, every id then fits the 8 bits of leaf 1.
    pub const MAX: u32 = 64;

    /// A single processor.
    pub const SINGLE: Topology = Topology { sockets: 1, cores: 1, threads: 1 };

    /// So many threads in each core, cores in each socket, and sockets.
    pub fn new(sockets: u32, cores: u32, threads: u32) -> Result<Topology, TopologyError> {
        if sockets == 0 || cores == 0 || threads == 0 {
            return Err(TopologyError::Zero(sockets, cores, threads));
        }
        let all = sockets.checked_mul(cores).and_then(|all| all.checked_mul(threads));
        match all {
            Some(all) if all <= Topology::MAX => Ok(Topology { sockets, cores, threads }),
            _ => Err(TopologyError::TooMany(sockets, cores, threads)),
        }
    }

    /// The number of virtual processors.
    pub fn processors(self) -> u32 {
        self.sockets.saturating_mul(self.per_socket())
    }

    /// Threads in a core.
    pub fn threads(self) -> u32 {
        self.threads
    }

    /// A virtual processor's number within its core.
    pub fn thread(self, processor: u32) -> u32 {
        processor.checked_rem(self.threads).unwrap_or(0)
    }

    /// Threads in a socket.
    pub fn per_socket(self) -> u32 {
        self.cores.saturating_mul(self.threads)
    }

    /// The lowest bit of the core's number within an APIC id: SDM volume 3, 10.9.1.
    pub fn core_shift(self) -> u32 {
        width(self.threads)
    }

    /// The lowest bit of the socket's number within an APIC id.
    pub fn socket_shift(self) -> u32 {
        self.core_shift().saturating_add(width(self.cores))
    }

    /// The APIC id of a virtual processor. Threads of a core come one after the other, and so do
    /// the cores of a socket.
    pub fn apic_id(self, processor: u32) -> u32 {
        let thread = processor.checked_rem(self.threads).unwrap_or(0);
        self.socket(processor) << self.socket_shift()
            | self.core(processor) << self.core_shift()
            | thread
    }

    /// The number of a virtual processor's core within its socket.
    pub fn core(self, processor: u32) -> u32 {
        let core = processor.checked_div(self.threads).unwrap_or(0);
        core.checked_rem(self.cores).unwrap_or(0)
    }

    /// The number of a virtual processor's socket.
    pub fn socket(self, processor: u32) -> u32 {
        processor.checked_div(self.per_socket()).unwrap_or(0)
    }
}

/// The bits that so many numbers need.
fn width(count: u32) -> u32 {
    count.checked_next_power_of_two().unwrap_or(1).trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apic_ids_leave_gaps_where_a_number_is_no_power_of_two() {
        let topology = Topology::new(2, 3, 2).unwrap();
        let ids: Vec<u32> = (0..topology.processors()).map(|cpu| topology.apic_id(cpu)).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
    }

    #[test]
    fn every_apic_id_fits_eight_bits_and_is_its_processors_own() {
        for (sockets, cores, threads) in
            (1..=64).flat_map(|s| (1..=64).flat_map(move |c| (1..=64).map(move |t| (s, c, t))))
        {
            let Ok(topology) = Topology::new(sockets, cores, threads) else { continue };
            let mut last = None;
            for cpu in 0..topology.processors() {
                let id = topology.apic_id(cpu);
                assert!(id < 255 && last < Some(id), "{topology:?}: {cpu} has {id}");
                last = Some(id);
            }
        }
    }

    #[test]
    fn a_topology_of_none_or_of_too_many_is_refused() {
        let refused = |sockets, cores, threads| {
            Topology::new(sockets, cores, threads).unwrap_err().to_string()
        };
        assert_eq!(refused(1, 0, 1), "sockets=1,cores=0,threads=1: each must be 1 or more");
        assert_eq!(refused(65, 1, 1), "sockets=65,cores=1,threads=1: no more than 64 processors");
        assert_eq!(
            refused(1 << 31, 2, 1),
            "sockets=2147483648,cores=2,threads=1: no more than 64 processors"
        );
    }
}
