//! Both pairs of queues of a guest with two processors.

use lab::net::measure;
use lab::{Error, Shell};

use super::card::Card;

/// Pairs in use, as ethtool says: what may be, and what is.
fn channels(guest: &impl Shell) -> Result<Vec<u16>, Error> {
    let said = guest.run("ethtool -l eth0")?.stdout_if_ok()?;
    let combined = said.lines().filter_map(|line| line.strip_prefix("Combined:"));
    Ok(combined.map(|number| number.trim().parse().unwrap_or_else(|_| panic!("{said}"))).collect())
}

/// How often the driver has told the card of packets by the second one; nothing is said of one that is not used.
fn second_kicks(guest: &impl Shell) -> Result<u64, Error> {
    // Its name changed after Linux 6.1.
    let script = "ethtool -S eth0 | sed -nE 's/ *tx(_queue_)?1_kicks: //p'";
    Ok(guest.run(script)?.stdout_if_ok()?.trim().parse().unwrap_or(0))
}

/// The guest uses two, one, and two: so the driver says, and so the card counts.
pub(crate) fn both_are_used(card: Card<'_>, guest: &impl Shell) -> Result<(), Error> {
    assert_eq!(channels(guest)?, [2, 2]);
    for used in [1, 2] {
        guest.run(&format!("ethtool -L eth0 combined {used}"))?.stdout_if_ok()?;
        assert_eq!(channels(guest)?, [2, used]);
        assert_eq!(card.describe()?["queues-used"], used);
        let before = (second_kicks(guest)?, card.count("transmit", "frames")?);
        for processor in [0, 1] {
            measure(guest, 1, &format!("--affinity {processor}"))?;
        }
        let after = (second_kicks(guest)?, card.count("transmit", "frames")?);
        assert!(after.1[0] > before.1[0], "{before:?} {after:?}");
        assert_eq!(after.0 > before.0, used == 2, "{before:?} {after:?}");
        assert_eq!(after.1[1] > before.1[1], used == 2, "{before:?} {after:?}");
    }
    Ok(())
}
