//! What every program does alike, seen from its command line.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use lab::Error;

const DEVICES: [&str; 4] = ["vhost-scsi", "vhost-usb", "vhost-net", "vhost-sound"];

/// How a program ends with these arguments, if it may print there.
fn run(program: &str, arguments: &[&str], stdout: impl Into<Stdio>) -> Result<Output, Error> {
    let mut command = Command::new(lab::program(program)?);
    let child = command.args(arguments).stdout(stdout).stderr(Stdio::piped()).spawn();
    Ok(child.and_then(|child| child.wait_with_output()).expect("it was built"))
}

/// It says in one sentence what is wrong.
#[track_caller]
fn fails(output: &Output, sentence: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains(sentence), "{said}");
}

/// A program of which nothing is known but that it speaks QMP, and has nothing to list.
fn serve_nothing(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    let serve = |mut stream: UnixStream| {
        stream.write_all(b"{\"QMP\":{}}\n")?;
        for _line in BufReader::new(stream.try_clone()?).lines() {
            stream.write_all(b"{\"return\":[]}\n")?;
        }
        Ok::<_, std::io::Error>(())
    };
    // A client that has its answer does not wait for another.
    thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(serve(stream))));
}

#[test]
fn output_that_cannot_be_written_is_told_in_one_sentence() -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    serve_nothing(&control);
    let list = ["ctl", "--control", control.to_str().unwrap(), "list"];
    let list_json = [&list[..], &["--json"]].concat();
    let programs = [&DEVICES[..], &["vhost-usb-spice", "vmm-frontend"]].concat();
    let asked =
        programs.iter().flat_map(|program| [(program, &["--help"][..]), (program, &["--version"])]);
    let asked = asked.chain(DEVICES.iter().flat_map(|program| {
        [&["--print-capabilities"][..], &list, &list_json].map(|arguments| (program, arguments))
    }));
    for (program, arguments) in asked {
        let full = File::options().write(true).open("/dev/full").unwrap();
        fails(
            &run(program, arguments, full)?,
            "what was asked for cannot be printed: No space left",
        );
        let (reader, closed) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(program, arguments, closed)?;
        assert!(output.status.success() && output.stderr.is_empty(), "{program}: {output:?}");
    }
    Ok(())
}
