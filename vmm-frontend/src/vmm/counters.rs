//! What KVM counts of a machine.

use std::fmt::Write;

use super::error::VmmError;
use super::machine::Machine;
use crate::machine::stats::{Statistic, Statistics, StatsError};
use crate::machine::vcpu::Vcpu;
use crate::machine::vm::Vm;

/// The statistics of a machine, and of its processors, in order.
#[derive(Debug)]
pub struct Counters {
    /// The machine's.
    pub vm: Statistics,
    /// The processors'.
    pub vcpus: Vec<Statistics>,
}

impl Counters {
    /// `None`: this KVM has none.
    pub(super) fn new(vm: &Vm, vcpus: &[Vcpu]) -> Result<Option<Self>, StatsError> {
        let vm = match Statistics::of(vm.fd()) {
            Ok(vm) => vm,
            Err(StatsError::Lacks) => return Ok(None),
            Err(error) => return Err(error),
        };
        let vcpus = vcpus.iter().map(Vcpu::statistics).collect::<Result<_, _>>()?;
        Ok(Some(Self { vm, vcpus }))
    }
}

/// What a summary shows of each processor.
const SHOWN: [&str; 6] =
    ["exits", "halt_exits", "irq_injections", "irq_exits", "io_exits", "mmio_exits"];

impl Machine {
    /// What KVM counts of it.
    ///
    /// # Errors
    /// It counts nothing.
    pub fn counters(&self) -> Result<&Counters, StatsError> {
        self.counters.as_ref().ok_or(StatsError::Lacks)
    }

    /// How often its processors left the guest, and why, as a table for people.
    ///
    /// # Errors
    /// KVM counts nothing.
    pub fn summary(&self) -> Result<String, VmmError> {
        let counters = self.counters()?;
        let vcpus = counters.vcpus.iter().map(Statistics::read);
        let rows: Vec<_> = vcpus.map(|read| read.map(shown)).collect::<Result<_, _>>()?;
        Ok(table(&rows, self.pv_eoi))
    }
}

/// The counters that are shown; `None`: this KVM does not count that.
type Row = [Option<u64>; SHOWN.len()];

#[expect(clippy::needless_pass_by_value)]
fn shown(statistics: Vec<Statistic>) -> Row {
    SHOWN.map(|name| {
        let found = statistics.iter().find(|statistic| statistic.name == name);
        found.and_then(|statistic| statistic.values.first().copied())
    })
}

fn table(rows: &[Row], pv_eoi: bool) -> String {
    let sum = rows.iter().fold([Some(0u64); SHOWN.len()], |mut sum, row| {
        for (sum, value) in sum.iter_mut().zip(row) {
            *sum = sum.zip(*value).map(|(sum, value)| sum.saturating_add(value));
        }
        sum
    });
    let mut text = format!("{:>9}", "processor");
    for name in SHOWN.iter().chain(&["exits/injection"]) {
        // Writing to a string does not fail.
        let _ = write!(text, "  {name:>15}");
    }
    let numbers = rows.iter().enumerate().map(|(number, row)| (number.to_string(), row));
    for (name, row) in numbers.chain([(String::from("all"), &sum)]) {
        let _ = write!(text, "\n{name:>9}");
        for value in row {
            let _ = write!(text, "  {:>15}", value.map_or("-".into(), |value| value.to_string()));
        }
        let ratio = match row {
            [Some(exits), _, Some(injections), ..] if *injections > 0 => {
                format!("{:.2}", *exits as f64 / *injections as f64)
            }
            _ => String::from("-"),
        };
        let _ = write!(text, "  {ratio:>15}");
    }
    let offered = if pv_eoi { "is" } else { "is not" };
    let _ = writeln!(text, "\nPV-EOI {offered} offered to the guest (kvm-pv-eoi)");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_a_line_for_each_processor_and_one_for_all() {
        let one = [Some(30), Some(1), Some(10), Some(4), Some(5), None];
        let two = [Some(5), Some(2), Some(0), Some(0), Some(7), None];
        let text = table(&[one, two], true);
        let cells = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let cells: Vec<_> = cells.collect();
        assert_eq!(cells[0][..3], ["processor", "exits", "halt_exits"]);
        assert_eq!(cells[1], ["0", "30", "1", "10", "4", "5", "-", "3.00"]);
        assert_eq!(cells[2], ["1", "5", "2", "0", "0", "7", "-", "-"]);
        assert_eq!(cells[3], ["all", "35", "3", "10", "4", "12", "-", "3.50"]);
        assert!(text.ends_with("PV-EOI is offered to the guest (kvm-pv-eoi)\n"));
        assert!(table(&[one], false).contains("is not offered"));
    }
}
