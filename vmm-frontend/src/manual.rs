//! What the manual page says besides the options' own words.

/// Its sections, in roff.
pub const SECTIONS: &str = include_str!("manual.roff");

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use vhost_runtime::control::Commands;
    use vhost_runtime::manual::{Shell, completions, page};

    use super::SECTIONS;
    use crate::control::Control;
    use crate::options::{NET_KEYS, Options, VHOST_USER_KEYS};

    fn text() -> String {
        let mut text = Vec::new();
        page(&Options::command(), SECTIONS, &mut text).unwrap();
        String::from_utf8(text).unwrap().replace("\\-", "-")
    }

    #[test]
    fn the_manual_explains_every_option_key_and_command() {
        let text = text();
        for option in Options::command().get_arguments().filter_map(|option| option.get_long()) {
            assert!(text.contains(&format!("--{option}")), "--{option}");
        }
        for key in VHOST_USER_KEYS.into_iter().chain(NET_KEYS) {
            let heading = [format!("\n.B {key}="), format!("\\fB{key}=")];
            assert!(heading.iter().any(|at| text.contains(at)), "{key} is not explained");
        }
        let (_, control) = text.split_once(".SH CONTROL\n").unwrap();
        for command in Control::default().names() {
            assert!(control.contains(command), "{command} is not explained");
        }
    }

    #[test]
    fn completions_know_the_options() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            completions(&Options::command(), shell, &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("scsi-passthrough") && script.contains("qmp"), "{shell}");
        }
    }
}
