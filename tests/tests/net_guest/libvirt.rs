//! A guest of libvirt's.

use lab::{Error, Host, net};

use super::card::Card;
use super::queues;

#[test]
fn a_guest_of_libvirts_uses_both_pairs_of_queues() -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        net::make_lan(&host)?;
        let card = Card::on_tap(&host, "tap0", "--queues 2")?;
        let guest = net::boot_libvirt_guest(&host, &card.socket(), 2)?;
        net::lease(&guest)?;
        queues::both_are_used(card, &guest)?;
        let measured = net::measure(&guest, 2, "--reverse")?;
        assert!(measured.bits_per_second > 0.0, "{measured:?}");
        Ok(())
    })
}
