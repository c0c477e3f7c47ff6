//! What the manual page says besides the options' own words.

/// Its sections, in roff.
pub const SECTIONS: &str = include_str!("manual.roff");

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use vhost_runtime::manual::{self, Shell};

    use super::SECTIONS;
    use crate::options::Options;
    use crate::units::{CD_KEYS, DISK_KEYS, PASS_THROUGH_KEYS};

    #[test]
    fn the_manual_explains_every_key_and_option() {
        let mut page = Vec::new();
        manual::page(&Options::command(), SECTIONS, &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        for keys in [DISK_KEYS, CD_KEYS, PASS_THROUGH_KEYS] {
            for key in keys.split(", ") {
                let heading = format!(".B {}=", key.replace('-', "\\-"));
                assert!(page.contains(&heading), "{key} is not explained");
            }
        }
        for option in Options::command().get_arguments().filter_map(|option| option.get_long()) {
            assert!(page.contains(&option.replace('-', "\\-")), "--{option}");
        }
    }

    #[test]
    fn completions_know_the_options() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            manual::completions(&Options::command(), shell, &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("socket-path") && script.contains("ctl"), "{shell}");
        }
    }
}
