//! What the manual page says besides the options' own words.

/// Its sections, in roff.
pub const SECTIONS: &str = include_str!("manual.roff");

/// Those of a helper's page.
pub const HELPER: &str = ".SH SEE ALSO\n\\fBvhost\\-sound\\fR(1), which starts it.\n";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use vhost_runtime::manual;

    use super::SECTIONS;
    use crate::options::Options;

    #[test]
    fn the_manual_has_every_option() {
        let mut page = Vec::new();
        manual::page(&Options::command(), SECTIONS, &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        for option in Options::command().get_arguments().filter_map(|option| option.get_long()) {
            assert!(page.contains(&option.replace('-', "\\-")), "--{option}");
        }
    }
}
