//! The kernel's own test of host controllers and their drivers, on gadget zero.

/// Tests that there are.
const TESTS: u32 = 30;

/// A script for a guest that has loaded `usbtest`: all tests, in so many rounds.
pub fn script(rounds: u32) -> String {
    format!("python3 - {rounds} <<'END'\n{}\nEND", include_str!("usbtest.py"))
}

/// Checks that all went well, but those that need endpoints that are not there.
///
/// # Panics
/// They did not.
pub fn check(said: &str, unsupported: &[u32]) {
    let wanted = (0..TESTS).map(|test| match unsupported.contains(&test) {
        true => format!("{test} ENOTSUP\n"),
        false => format!("{test} ok\n"),
    });
    assert_eq!(said, wanted.collect::<String>());
}
