//! The manual page and the shells' completions, from the command line's own description.

use std::io;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::options::Options;

/// What the options' own words do not say.
const SECTIONS: &str = include_str!("manual.roff");

const NAME: &str = "vhost-scsi";

/// Writes `vhost-scsi(1)`, in roff.
///
/// # Errors
/// `target` can't be written to.
pub fn man_page(target: &mut impl io::Write) -> io::Result<()> {
    let command = Options::command();
    let man = Man::new(command.clone());
    man.render_title(target)?;
    man.render_name_section(target)?;
    man.render_synopsis_section(target)?;
    man.render_description_section(target)?;
    man.render_options_section(target)?;
    for ctl in command.get_subcommands().filter(|verb| verb.get_name() == "ctl") {
        writeln!(target, ".SH \"VHOST\\-SCSI CTL\"")?;
        writeln!(target, "Looks at and changes a running controller, by its control socket.")?;
        for verb in ctl.get_subcommands() {
            let usage = verb.clone().render_usage().to_string();
            let usage = usage.trim_start_matches("Usage: ").replace('-', "\\-");
            let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
            writeln!(target, ".TP\n\\fB{usage}\\fR\n{about}")?;
        }
    }
    target.write_all(SECTIONS.as_bytes())
}

/// Writes a shell's completions.
pub fn completions(shell: Shell, target: &mut impl io::Write) {
    clap_complete::generate(shell, &mut Options::command(), NAME, target);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{CD_KEYS, DISK_KEYS, PASS_THROUGH_KEYS};

    #[test]
    fn the_manual_explains_every_key_and_option() {
        let mut page = Vec::new();
        man_page(&mut page).unwrap();
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
            completions(shell, &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("socket-path") && script.contains("ctl"), "{shell}");
        }
    }
}
