//! The manual page and the shells' completions of a program, from its command line's own
//! description, and sections that are written by hand.

use std::fmt::Write;
use std::io;

use clap::Command;
use clap_mangen::Man;

pub use clap_complete::Shell;

/// Writes the page of section 1, in roff. `sections` follow what is told of the options.
///
/// # Errors
/// `target` can't be written to.
pub fn page(command: &Command, sections: &str, target: &mut impl io::Write) -> io::Result<()> {
    let mut text = Vec::new();
    let man = Man::new(command.clone());
    title(command, &mut text)?;
    man.render_name_section(&mut text)?;
    synopsis(command, &mut text)?;
    man.render_description_section(&mut text)?;
    options(&man, &mut text)?;
    for verb in command.get_subcommands() {
        subcommands(command, verb, &mut text)?;
    }
    text.extend(sections.as_bytes());
    target.write_all(ascii(&String::from_utf8_lossy(&text)).as_bytes())
}

/// Without characters that roff has only by their numbers.
fn ascii(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for one in text.chars() {
        match one {
            _ if one.is_ascii() => plain.push(one),
            // Writing to a string does not fail.
            _ => drop(write!(plain, "\\[u{:04X}]", u32::from(one))),
        }
    }
    plain
}

/// Writes a shell's completions.
pub fn completions(command: &Command, shell: Shell, target: &mut impl io::Write) {
    clap_complete::generate(shell, &mut command.clone(), command.get_name(), target);
}

/// The program, and its version where pages have the date.
fn title(command: &Command, target: &mut impl io::Write) -> io::Result<()> {
    let (name, version) = (command.get_name(), command.get_version().unwrap_or_default());
    writeln!(target, ".TH {} 1 \"\" \"{name} {version}\"", name.to_uppercase())
}

/// As `--help` has it, which is shorter than all options in a row.
fn synopsis(command: &Command, target: &mut impl io::Write) -> io::Result<()> {
    let usage = command.clone().render_usage().to_string();
    let name = escape(command.get_name());
    let lines = usage.trim_start_matches("Usage: ").lines().map(|line| {
        let line = line.trim();
        let rest = line.strip_prefix(command.get_name()).unwrap_or(line);
        format!("\\fB{name}\\fR{}\n", escape(rest))
    });
    write!(target, ".SH SYNOPSIS\n{}", lines.collect::<Vec<_>>().join(".br\n"))
}

/// All options in one section, their groups below it.
fn options(man: &Man, target: &mut impl io::Write) -> io::Result<()> {
    let mut text = Vec::new();
    man.render_options_section(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    if !text.contains("\n.SH OPTIONS\n") {
        writeln!(target, ".SH OPTIONS")?;
    }
    for line in text.lines() {
        match line.strip_prefix(".SH ") {
            Some(group) if group != "OPTIONS" => writeln!(target, ".SS {group}")?,
            _ => writeln!(target, "{line}")?,
        }
    }
    Ok(())
}

/// What a subcommand can do, each in a line.
fn subcommands(command: &Command, verb: &Command, target: &mut impl io::Write) -> io::Result<()> {
    let name = format!("{} {}", command.get_name(), verb.get_name()).to_uppercase();
    let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
    writeln!(target, ".SH \"{}\"\n{}", escape(&name), escape(&about))?;
    for verb in verb.get_subcommands() {
        let usage = verb.clone().render_usage().to_string();
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        let usage = escape(usage.trim_start_matches("Usage: "));
        writeln!(target, ".TP\n\\fB{usage}\\fR\n{}", escape(&about))?;
    }
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command};

    use super::page;

    fn text(command: &Command, sections: &str) -> String {
        let mut text = Vec::new();
        page(command, sections, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn groups_of_options_are_below_one_heading() {
        let disk = Arg::new("disk").long("disk").help("PATH[,\u{2026}]").help_heading("Disks");
        let command = Command::new("a-program").disable_help_flag(true).arg(disk);
        let said = text(&command, ".SH FILES\n");
        assert_eq!(said.matches("\n.SH OPTIONS\n").count(), 1, "{said}");
        assert!(said.contains("\n.SS DISKS\n"), "{said}");
        assert!(said.contains("PATH[,\\[u2026]]"), "{said}");
        assert!(said.contains("\n\\fBa\\-program\\fR [OPTIONS]\n"), "{said}");
        assert!(said.ends_with("\n.SH FILES\n"), "{said}");
    }

    #[test]
    fn what_subcommands_do_is_told() {
        let list = Command::new("list").about("List the units");
        let ctl = Command::new("ctl").about("Look at it").subcommand(list);
        let said = text(&Command::new("program").subcommand(ctl), "");
        assert!(said.contains("\n.SH \"PROGRAM CTL\"\nLook at it\n.TP\n"), "{said}");
        assert!(said.contains("list\\fR\nList the units\n"), "{said}");
    }
}
