//! The command line.

use clap::Parser;
use vhost_runtime::program::ProgramArgs;

use crate::controller::host::Kind;

/// USB host controllers in a process of their own, with what is plugged into them
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Options {
    /// What every device program has.
    #[command(flatten)]
    pub program: ProgramArgs,

    /// Which controllers there are
    #[arg(long, value_enum, value_name = "WHICH", default_value_t)]
    pub controller: Kind,

    /// A device, in the next free port or one of its own: KIND[,port=N[.N…]][,key=value…]. Kinds are
    /// storage,file=PATH, kbd, mouse, tablet, hub, serial,unix=PATH and gadget-zero
    #[arg(long, value_name = "KIND[,…]")]
    pub device: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }
}
