//! What `vmm-frontend` says when there can be no machine: one sentence, code 1, and nothing of it stays.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use lab::tiny::{self, with_kvm};
use lab::{Error, program};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Within this all is said, and all processes are gone.
const LIMIT: Duration = Duration::from_secs(60);

/// Files to start with, and a folder for what is made at run time.
struct Files {
    folder: TempDir,
    program: PathBuf,
}

/// An ELF file's header, of a program for a 32-bit processor.
const ELF_32: &[u8] = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0\x01\0\0\0";

impl Files {
    fn new() -> Result<Files, Error> {
        let folder = tempfile::tempdir().unwrap();
        // For other users too.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let files = Files { program: folder.path().join("vmm-frontend"), folder };
        fs::copy(program("vmm-frontend")?, &files.program).unwrap();
        fs::copy(program("vhost-scsi")?, files.path("vhost-scsi")).unwrap();
        fs::write(files.path("kernel"), tiny::hello().kernel()).unwrap();
        fs::write(files.path("text"), "#!/bin/sh\n").unwrap();
        fs::write(files.path("elf32"), ELF_32).unwrap();
        fs::write(files.path("bzimage"), bzimage(0x1000)).unwrap();
        fs::write(files.path("cut"), &bzimage(0x1000)[..0x1000]).unwrap();
        fs::File::create(files.path("initrd")).unwrap().set_len(20 << 20).unwrap();
        drop(UnixListener::bind(files.path("dead")).unwrap());
        fs::create_dir(files.path("run")).unwrap();
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a program in the folder, and waits for all that it has started. `arguments` are words.
    fn run(&self, mut command: Command, arguments: &str) -> Output {
        command.args(arguments.split(' ')).current_dir(self.folder.path());
        command.env("XDG_RUNTIME_DIR", self.path("run")).stdin(Stdio::null());
        let (tell, told) = mpsc::channel();
        // It ends when nobody has the pipes any more.
        thread::spawn(move || tell.send(command.output()));
        let ended = told.recv_timeout(LIMIT);
        ended.unwrap_or_else(|_| panic!("{arguments}: something that was started stays")).unwrap()
    }

    fn listed(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap();
        let mut all: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        all.sort();
        all
    }

    /// It refuses to start with this sentence.
    fn refuses(&self, command: Command, arguments: &str, sentence: &str) {
        self.says(command, arguments, &format!("vmm-frontend: {sentence}\n"));
    }

    fn says(&self, command: Command, arguments: &str, expected: &str) {
        let before = Self::listed(self.folder.path());
        let Output { status, stdout, stderr } = self.run(command, arguments);
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert_eq!(err, expected, "{arguments}");
        assert_eq!((status.code(), out.as_ref()), (Some(1), ""), "{arguments}");
        assert_eq!(Self::listed(self.folder.path()), before, "{arguments}: files stay");
        assert_eq!(Self::listed(&self.path("run")), [""; 0].map(PathBuf::from), "{arguments}");
    }

    fn program(&self) -> Command {
        Command::new(&self.program)
    }
}

/// A bzImage that is whole, of a setup sector and so many bytes.
fn bzimage(size: u32) -> Vec<u8> {
    let mut image = vec![0; 0x400 + size as usize];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1f4, &(size / 16).to_le_bytes());
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &0x10_0000_u32.to_le_bytes());
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x238, &255_u32.to_le_bytes());
    put(0x258, &0x10_0000_u64.to_le_bytes());
    put(0x260, &(12_u32 << 20).to_le_bytes());
    image
}

#[test]
fn a_command_line_that_is_wrong_is_said_to_be_in_a_sentence() -> Result<(), Error> {
    const NO_KERNEL: &str = "neither a Linux bzImage nor an ELF kernel with a PVH entry point";
    let files = Files::new()?;
    let nobody = "no guest: give --kernel FILE, or --disk FILE to boot from";
    for (arguments, sentence) in [
        ("-v", nobody),
        ("--kernel text", &format!("--kernel text: {NO_KERNEL} (it has the header of neither)")),
        ("--kernel elf32", &format!("--kernel elf32: {NO_KERNEL} (it is a 32-bit ELF file)")),
        (
            "--kernel cut",
            &format!("--kernel cut: {NO_KERNEL} (it is cut off: 4096 of 5120 bytes are there)"),
        ),
        ("--kernel nowhere", "--kernel nowhere: No such file or directory (os error 2)"),
        ("--kernel run", "--kernel run: not a regular file"),
        ("--kernel kernel --initrd none", "--initrd none: No such file or directory (os error 2)"),
        ("--initrd initrd", "the following required arguments were not provided: --kernel <FILE>"),
        (
            "--disk text --firmware text",
            "--firmware text: its 10 bytes are no firmware, which has 128 KiB to 8 MiB in multiples \
             of 64 KiB",
        ),
        (
            "--kernel kernel --cpu Hasswell",
            "--cpu Hasswell: there is no such model; --cpu help lists them",
        ),
        (
            "--kernel kernel --cpu host,+avx22",
            "--cpu …,+avx22: there is no such feature; did you mean avx2?",
        ),
        (
            "--kernel kernel --cpus 0",
            "invalid value '0' for '--cpus <N>': 0 processors: there can be 1 to 64",
        ),
        (
            "--kernel kernel --cpus 65",
            "invalid value '65' for '--cpus <N>': 65 processors: there can be 1 to 64",
        ),
        (
            "--kernel kernel --cpus 3,cores=2",
            "invalid value '3,cores=2' for '--cpus <N>': sockets=1,cores=2,threads=1 are 2 \
             processors, not 3",
        ),
        (
            "--kernel kernel --memory 0",
            "invalid value '0' for '--memory <SIZE>': it must be 4M to 1T",
        ),
        (
            "--kernel kernel --memory 1E",
            "invalid value '1E' for '--memory <SIZE>': its unit must be K, M, G or T",
        ),
        (
            "--kernel kernel --memory 4097K",
            "invalid value '4097K' for '--memory <SIZE>': it must be a multiple of 4096 bytes, a page",
        ),
        (
            "--kernel kernel --memory 17M,hugepages=2M",
            "invalid value '17M,hugepages=2M' for '--memory <SIZE>': it must be a multiple of 2097152 \
             bytes, a page",
        ),
        (
            "--kernel kernel --qmp text",
            "--qmp text: there is a file that is not a socket, remove it or choose another path",
        ),
        (
            "--kernel kernel --serial file:none/x",
            "--serial file:none/x: cannot be written: No such file or directory (os error 2)",
        ),
    ] {
        files.refuses(files.program(), arguments, sentence);
    }
    Ok(())
}

#[test]
fn what_is_found_out_late_leaves_nothing_behind() -> Result<(), Error> {
    with_kvm(|| {
        let files = Files::new()?;
        let made = "--qmp qmp --serial unix:serial";
        let room = "bytes have no room in the guest's memory: give it more by --memory";
        for (arguments, sentence) in [
            (
                "--kernel kernel --memory 16M --initrd initrd",
                format!("--initrd: its 20971520 {room}"),
            ),
            // 12 MiB from 1 MiB on are for the kernel.
            ("--kernel bzimage --memory 12M", format!("--kernel: its 12582912 {room}")),
            (
                "--kernel bzimage --memory 32M --initrd initrd",
                format!("--initrd: its 20971520 {room}"),
            ),
            (
                "--kernel kernel --vhost-user type=scsi,socket=nowhere",
                "--vhost-user: cannot connect to nowhere: No such file or directory (os error 2)"
                    .into(),
            ),
            (
                "--kernel kernel --vhost-user type=blk,socket=dead",
                "--vhost-user: cannot connect to dead: Connection refused (os error 111)".into(),
            ),
        ] {
            files.refuses(files.program(), &format!("{arguments} {made}"), &sentence);
        }
        Ok(())
    })
}

/// One that takes a connection and is silent, and one that takes none.
#[test]
fn a_device_process_that_does_not_answer_is_not_waited_for() -> Result<(), Error> {
    with_kvm(|| {
        let files = Files::new()?;
        let _silent = UnixListener::bind(files.path("silent")).unwrap();
        let full = UnixListener::bind(files.path("full")).unwrap();
        rustix::net::listen(&full, 0).unwrap();
        let _waiting = UnixStream::connect(files.path("full")).unwrap();
        for (name, sentence) in [
            (
                "silent",
                "silent: GET_FEATURES: the device process does not answer within 10 seconds",
            ),
            ("full", "cannot connect to full: timed out"),
        ] {
            let arguments =
                format!("--kernel kernel --qmp qmp --vhost-user type=scsi,socket={name}");
            files.refuses(files.program(), &arguments, &format!("--vhost-user: {sentence}"));
        }
        Ok(())
    })
}

#[test]
fn a_disk_that_cannot_be_served_is_said_to_be_by_its_process() -> Result<(), Error> {
    with_kvm(|| {
        let files = Files::new()?;
        let sentence = "vhost-scsi: --disk nowhere.img: cannot be opened for writing: No such file or directory \
                        (os error 2)\n";
        files.says(files.program(), "--kernel kernel --disk nowhere.img", sentence);
        Ok(())
    })
}

/// Nobody has to wait for what is waited for at the start.
#[test]
fn a_start_can_be_given_up() -> Result<(), Error> {
    with_kvm(|| {
        let files = Files::new()?;
        let silent = UnixListener::bind(files.path("silent")).unwrap();
        let before = Files::listed(files.folder.path());
        for signal in [Signal::TERM, Signal::INT] {
            let mut command = files.program();
            let made = ["--qmp", "qmp", "--serial", "unix:serial"];
            command.args(["--kernel", "kernel", "--vhost-user", "type=scsi,socket=silent"]);
            command.args(made).current_dir(files.folder.path());
            command.env("XDG_RUNTIME_DIR", files.path("run")).stdin(Stdio::null());
            let child = command.stderr(Stdio::piped()).spawn().unwrap();
            let _connection = silent.accept().unwrap();
            kill_process(Pid::from_child(&child), signal).unwrap();
            let Output { status, stderr, .. } = child.wait_with_output().unwrap();
            assert_eq!((status.code(), String::from_utf8_lossy(&stderr).as_ref()), (Some(0), ""));
            assert_eq!(Files::listed(files.folder.path()), before);
            assert_eq!(Files::listed(&files.path("run")).len(), 0);
        }
        Ok(())
    })
}

#[test]
fn what_somebody_else_has_made_stays() -> Result<(), Error> {
    let files = Files::new()?;
    std::os::unix::fs::symlink("nothing", files.path("link")).unwrap();
    for option in ["--qmp", "--serial unix:", "--console pty:"] {
        let separator = if option == "--qmp" { " " } else { "" };
        let arguments = format!("--kernel kernel {option}{separator}link --port x=file:none/x");
        let Output { status, stderr, .. } = files.run(files.program(), &arguments);
        let said = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(1), "{said}");
        let target = fs::read_link(files.path("link"));
        assert_eq!(target.ok().as_deref(), Some(Path::new("nothing")), "{arguments}: {said}");
    }
    let dead = fs::metadata(files.path("dead")).unwrap().ino();
    files.run(files.program(), "--kernel kernel --qmp dead --port x=file:none/x");
    assert_eq!(fs::metadata(files.path("dead")).unwrap().ino(), dead);
    Ok(())
}

#[test]
fn a_folder_whose_name_is_too_long_for_sockets_is_named() -> Result<(), Error> {
    let files = Files::new()?;
    let long = files.path(&"x".repeat(100));
    fs::create_dir(&long).unwrap();
    let mut command = Command::new("sh");
    let script = "XDG_RUNTIME_DIR=$0 exec \"$@\"";
    command.args(["-c", script]).arg(&long).arg(&files.program);
    let Output { status, stderr, .. } = files.run(command, "--kernel kernel --disk text");
    let said = String::from_utf8_lossy(&stderr);
    let start = format!("vmm-frontend: no socket can be made at {}/", long.display());
    assert!(said.starts_with(&start), "{said}");
    assert!(said.ends_with("; XDG_RUNTIME_DIR or TMPDIR says where\n"), "{said}");
    assert_eq!((status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert_eq!(Files::listed(&long).len(), 0);
    Ok(())
}

/// Whatever of the machine's process ends first: its sockets, or what tells of its end.
#[test]
fn sockets_go_with_the_machine() -> Result<(), Error> {
    with_kvm(|| {
        let files = Files::new()?;
        let before = Files::listed(files.folder.path());
        for _ in 0..20 {
            let arguments =
                "--kernel kernel --memory 16M --serial null --qmp qmp --console unix:hvc0";
            let Output { status, stderr, .. } = files.run(files.program(), arguments);
            let said = String::from_utf8_lossy(&stderr);
            assert_eq!((status.code(), said.as_ref()), (Some(0), ""));
            assert_eq!(Files::listed(files.folder.path()), before);
        }
        Ok(())
    })
}

/// All of the machine's processes may be told to end at once: the machine is not to wait then for an
/// answer from a socket that nobody serves any more.
#[test]
fn who_connects_while_device_processes_end_is_not_kept_waiting() -> Result<(), Error> {
    with_kvm(|| {
        let files = Files::new()?;
        fs::write(files.path("button"), tiny::button().kernel()).unwrap();
        fs::write(files.path("disk"), [0; 4096]).unwrap();
        let mut command = files.program();
        command.args(["--kernel", "button", "--serial", "null", "--disk", "disk"]);
        command.env("XDG_RUNTIME_DIR", files.path("run")).current_dir(files.folder.path());
        let mut machine = command.spawn().unwrap();
        let pid = Pid::from_child(&machine);
        let launcher = wait_for(|| first_child(pid));
        wait_for(|| first_child(launcher));
        kill_process(pid, Signal::STOP).unwrap();
        kill_process(launcher, Signal::TERM).unwrap();
        let folder = Files::listed(&files.path("run"));
        let socket = Files::listed(&folder[0])[0].clone();
        let refused = wait_for(|| UnixStream::connect(&socket).err().map(|error| error.kind()));
        // It would be gone if it had been kept until the launcher's end.
        assert_eq!(refused, ErrorKind::ConnectionRefused);
        kill_process(pid, Signal::TERM).unwrap();
        kill_process(pid, Signal::CONT).unwrap();
        assert_eq!(machine.wait().unwrap().code(), Some(0));
        wait_for(|| Files::listed(&files.path("run")).is_empty().then_some(()));
        Ok(())
    })
}

fn first_child(pid: Pid) -> Option<Pid> {
    let pid = pid.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next().and_then(|child| Pid::from_raw(child.parse().ok()?))
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "it does not happen");
        thread::sleep(Duration::from_millis(5));
    }
}

/// `command` in a namespace of mounts where a shell has run `first`.
fn with_mounts(first: &str, command: &Path) -> Command {
    let mut unshare = Command::new("unshare");
    let script = format!("{first} && exec \"$0\" \"$@\"");
    unshare.args(["--mount", "sh", "-c", &script]).arg(command);
    unshare
}

#[test]
fn a_host_without_kvm_is_told_what_to_do() -> Result<(), Error> {
    let files = Files::new()?;
    let hidden = with_mounts("mount -t tmpfs none /dev", &files.program);
    let arguments = "--kernel kernel --qmp qmp";
    let sentence = "/dev/kvm is not there: enable virtualization in the firmware's settings, and load \
                    kvm_intel or kvm_amd";
    files.refuses(hidden, arguments, sentence);
    let hidden = with_mounts("mount -t tmpfs none /dev", &files.program);
    files.refuses(hidden, "--cpu help", sentence);
    Ok(())
}

#[test]
fn a_user_who_may_not_use_kvm_is_told_who_may() -> Result<(), Error> {
    with_kvm(|| {
        let files = Files::new()?;
        let closed = "mount -t tmpfs none /dev && mknod -m 600 /dev/kvm c 10 232";
        let mut command = with_mounts(closed, Path::new("setpriv"));
        command.args(["--reuid=65534", "--clear-groups"]).arg(&files.program);
        let sentence = "/dev/kvm: permission denied; users of the group kvm have it \
                        (usermod -aG kvm USER)";
        fs::set_permissions(files.path("run"), fs::Permissions::from_mode(0o777)).unwrap();
        files.refuses(command, "--kernel kernel", sentence);
        Ok(())
    })
}

#[test]
fn who_has_seen_enough_of_the_models_is_no_error() -> Result<(), Error> {
    with_kvm(|| {
        let files = Files::new()?;
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = files.program();
        command.args(["--cpu", "help"]).stdout(writer);
        let Output { status, stderr, .. } = command.output().unwrap();
        assert_eq!((status.code(), String::from_utf8_lossy(&stderr).as_ref()), (Some(0), ""));
        Ok(())
    })
}
