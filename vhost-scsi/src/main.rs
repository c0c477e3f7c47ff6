//! `vhost-scsi`: a SCSI controller in a process of its own.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use vhost_runtime::program::{self, ProgramArgs, ProgramError, Shutdown, Socket};
use vhost_scsi::image::engine::EngineKind;
use vhost_scsi::units::{self, Addresses, UnitError};
use vhost_scsi::virtio::device::{Controller, ControllerOptions};

/// A SCSI controller in a process of its own, for any VMM that speaks vhost-user
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Options {
    #[command(flatten)]
    program: ProgramArgs,

    /// A disk on an image file or block device: PATH[,key=value…]
    #[arg(long, value_name = "PATH[,…]")]
    disk: Vec<String>,

    /// A CD or DVD drive with an ISO image, or `empty`: PATH[,key=value…]
    #[arg(long, value_name = "PATH[,…]")]
    cdrom: Vec<String>,

    /// A physical SCSI unit, passed through: /dev/sgN, /dev/sdX, /dev/srN, /dev/stN[,key=value…]
    #[arg(long, value_name = "DEVICE[,…]")]
    passthrough: Vec<String>,

    /// Request queues that the VMM may use
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=254))]
    num_queues: u16,

    /// What moves the data
    #[arg(long, value_enum, default_value_t)]
    aio: EngineKind,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Unit(#[from] UnitError),
    #[error("the controller cannot be made: {0}")]
    Controller(std::io::Error),
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("vhost-scsi: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    if options.program.print_capabilities {
        println!("{{\n  \"type\": \"scsi\"\n}}");
        return Ok(());
    }
    program::start_logging(options.program.verbose);
    program::raise_file_limit()?;
    let shutdown = Shutdown::new()?;
    let settings = ControllerOptions { queues: options.num_queues, engine: options.aio };
    let controller = Arc::new(Controller::new(settings).map_err(Failure::Controller)?);
    let mut addresses = Addresses::default();
    for text in &options.disk {
        let (address, unit) = units::disk(text, &mut addresses)?;
        controller.bus().insert(address, unit);
    }
    for text in &options.cdrom {
        let (address, unit) = units::cdrom(text, &mut addresses)?;
        controller.bus().insert(address, unit);
    }
    for text in &options.passthrough {
        let (address, unit) = units::pass_through(text, &mut addresses)?;
        controller.bus().insert(address, unit);
    }
    let socket = Socket::from_args(&options.program)?;
    program::serve(&socket, &shutdown, &controller)?;
    Ok(())
}
