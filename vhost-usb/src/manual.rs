//! What the manual page says besides the options' own words.

/// Its sections, in roff.
pub const SECTIONS: &str = include_str!("manual.roff");

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use vhost_runtime::manual;

    use super::SECTIONS;
    use crate::control::NAMES;
    use crate::devices::KINDS;
    use crate::options::Options;

    #[test]
    fn the_manual_explains_every_option_and_kind() {
        let mut page = Vec::new();
        manual::page(&Options::command(), SECTIONS, &mut page).unwrap();
        let page = String::from_utf8(page).unwrap().replace("\\-", "-");
        for option in Options::command().get_arguments().filter_map(|option| option.get_long()) {
            assert!(page.contains(&format!("--{option}")), "--{option}");
        }
        for kind in KINDS {
            let explained = ["\n.B ", "\\fR, \\fB"].map(|before| format!("{before}{kind}"));
            assert!(explained.iter().any(|text| page.contains(text)), "{kind}");
        }
        for command in NAMES {
            assert!(page.contains(&format!("\n.B {command}")), "{command}");
        }
    }
}
