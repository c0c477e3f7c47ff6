//! What the manual page of `vhost-usb-spice` says besides the options' own words.

/// Its sections, in roff.
pub const SECTIONS: &str = include_str!("manual.roff");

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use vhost_runtime::manual;

    use super::SECTIONS;
    use crate::spice::options::Options;

    #[test]
    fn the_manual_explains_every_option() {
        let mut page = Vec::new();
        manual::page(&Options::command(), SECTIONS, &mut page).unwrap();
        let page = String::from_utf8(page).unwrap().replace("\\-", "-");
        for option in Options::command().get_arguments().filter_map(|option| option.get_long()) {
            assert!(page.contains(&format!("--{option}")), "--{option}");
        }
        for section in ["CHANNELS", "CLIENTS", "SECURITY", "EXIT STATUS", "EXAMPLES"] {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{section}");
        }
    }
}
