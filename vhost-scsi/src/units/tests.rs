use super::*;
use crate::image::open::tests::Scratch;

fn place(text: &str, addresses: &mut Addresses) -> Result<Address, UnitError> {
    let opened = Unit::parse(Kind::Disk, text)?.open(None)?;
    Ok(opened.place(addresses)?.address)
}

fn error(text: &str) -> String {
    place(text, &mut Addresses::default()).err().unwrap().to_string()
}

#[test]
fn units_get_addresses_in_order() {
    let scratch = Scratch::new(4096);
    let path = scratch.path().display().to_string();
    let mut addresses = Addresses::default();
    let mut add = |rest: &str| {
        let address = place(&format!("{path}{rest}"), &mut addresses).unwrap();
        (address.target, address.lun)
    };
    assert_eq!(add(""), (0, 0));
    assert_eq!(add(",target=2"), (2, 0));
    assert_eq!(add(",target=2"), (2, 1));
    assert_eq!(add(""), (1, 0));
    assert_eq!(add(",lun=7"), (3, 7));
    assert_eq!(add(",target=255,lun=16383"), (255, 16383));
}

#[test]
fn an_address_is_taken_once() {
    let scratch = Scratch::new(4096);
    let text = format!("{},target=0,lun=0", scratch.path().display());
    let mut addresses = Addresses::default();
    place(&text, &mut addresses).unwrap();
    let error = place(&text, &mut addresses).err().unwrap().to_string();
    assert!(error.ends_with("target=0 lun=0 is taken, choose another"), "{error}");
    addresses.free(Address { target: 0, lun: 0 });
    place(&text, &mut addresses).unwrap();
}

#[test]
fn errors_say_what_would_be_right() {
    let scratch = Scratch::new(1000);
    let path = scratch.path().display().to_string();
    assert!(error("").contains("begin with the path"));
    assert!(error(&path).ends_with("1000 bytes are no whole number of 512 byte blocks"));
    assert!(
        error(&format!("{path},lun=16384"))
            .ends_with("lun=16384 is wrong, it must be a number from 0 to 16383")
    );
    assert!(error(&format!("{path},cache=fast")).ends_with("it must be writeback, none, unsafe"));
    assert!(
        error(&format!("{path},sreial=1")).contains("there is no sreial=; there is target, lun")
    );
    assert!(error(&format!("{path},wwn=1234")).contains("16 hexadecimal digits"));
    assert!(error(&format!("{path},readonly=maybe")).ends_with("it must be on or off"));
    assert!(error("/nonexistent").starts_with("--disk /nonexistent: cannot be opened for writing"));
}
