use std::io;
use std::net::UdpSocket;

use super::*;

/// Runs `body` in a process of its own and returns how that ended: its exit status, or minus the
/// signal that killed it. A test is a thread of many, so that the body must not wait for another.
fn in_a_child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child takes no lock but the heap's, which the C library makes free in it, and ends
    // by _exit.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(body()),
            pid => {
                let mut status = 0;
                assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
                if libc::WIFEXITED(status) {
                    libc::WEXITSTATUS(status)
                } else {
                    -libc::WTERMSIG(status)
                }
            }
        }
    }
}

fn errno(result: i64) -> i32 {
    if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
}

/// What a call answers behind the filters alone.
fn filtered(calls: &[Call], call: impl FnOnce() -> i64) -> i32 {
    let filters = calls::filters(calls).unwrap();
    in_a_child(|| match calls::restrict(&filters) {
        Ok(()) => errno(call()),
        Err(_) => 255,
    })
}

#[test]
fn what_serving_takes_is_allowed_and_nothing_else() {
    // SAFETY: system calls without pointers, or with such as outlive them.
    unsafe {
        assert_eq!(filtered(&[], || libc::getpid().into()), 0);
        assert_eq!(filtered(&[], || libc::syscall(libc::SYS_getppid)), libc::ENOSYS);
        let internet = || libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0).into();
        assert_eq!(filtered(&[], internet), libc::ENOSYS);
        let open = || libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY).into();
        assert_eq!(filtered(&[], open), libc::ENOSYS);
        assert_eq!(filtered(&[Call::Any(libc::SYS_openat)], open), 0);
        let fork = || libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0);
        assert_eq!(filtered(&[], fork), libc::ENOSYS);
        assert_eq!(filtered(&[], || libc::syscall(libc::SYS_clone3, 0, 0)), libc::ENOSYS);
    }
}

#[test]
fn a_thread_may_do_less() {
    let filter = ThreadFilter::without(&[
        Call::Any(libc::SYS_memfd_create),
        Call::With(libc::SYS_socket, 0, libc::AF_UNIX.cast_unsigned()),
    ]);
    let filter = filter.unwrap();
    let answer = |call: fn() -> i64| {
        let mut sandbox = Sandbox::default();
        sandbox.threads();
        sandbox.calls([Call::Any(libc::SYS_socket)]);
        let filters = calls::filters(&sandbox.calls).unwrap();
        in_a_child(|| match calls::restrict(&filters).and_then(|()| filter.enter()) {
            Ok(()) => errno(call()),
            Err(_) => 255,
        })
    };
    // SAFETY: system calls without pointers, or with such as outlive them.
    unsafe {
        assert_eq!(answer(|| libc::getpid().into()), 0);
        let local = || libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).into();
        assert_eq!(answer(local), libc::ENOSYS);
        assert_eq!(answer(|| libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0).into()), 0);
        let memory = || libc::memfd_create(c"".as_ptr(), 0).into();
        assert_eq!(answer(memory), libc::ENOSYS);
        // What the program may not do, its threads may not.
        assert_eq!(answer(|| libc::syscall(libc::SYS_getppid)), libc::ENOSYS);
    }
}

#[test]
fn arguments_are_looked_at() {
    let map = |protection| {
        // SAFETY: a fresh private mapping that nothing uses.
        move || unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) as i64
        }
    };
    assert_eq!(filtered(&[], map(libc::PROT_READ | libc::PROT_WRITE)), 0);
    assert_eq!(filtered(&[], map(libc::PROT_READ | libc::PROT_EXEC)), libc::ENOSYS);
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one int, to one that outlives the call.
    let mut available = || unsafe { libc::ioctl(0, libc::FIONREAD, &raw mut count).into() };
    assert_eq!(filtered(&[], &mut available), libc::ENOSYS);
    let allowed = filtered(&[Call::ioctl(libc::FIONREAD as u32)], &mut available);
    assert_ne!(allowed, libc::ENOSYS);
    // SAFETY: F_GETFD only asks, F_GETOWN too.
    unsafe {
        assert_eq!(filtered(&[], || libc::fcntl(2, libc::F_GETFD).into()), 0);
        assert_eq!(filtered(&[], || libc::fcntl(2, libc::F_GETOWN).into()), libc::ENOSYS);
    }
    // Allowed whatever its arguments are, besides with some.
    let any = [Call::Any(libc::SYS_fcntl)];
    // SAFETY: as above.
    assert_eq!(filtered(&any, || unsafe { libc::fcntl(2, libc::F_GETOWN).into() }), 0);
}

#[test]
fn what_only_an_attacker_does_kills() {
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: null pointers are never followed: the kernel refuses before.
    unsafe {
        let execute = || libc::syscall(libc::SYS_execve, none, none, none);
        assert_eq!(filtered(&[], execute), -libc::SIGSYS);
        let trace = || libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0);
        assert_eq!(filtered(&[], trace), -libc::SIGSYS);
        assert_eq!(filtered(&[], || libc::syscall(libc::SYS_setuid, 0)), -libc::SIGSYS);
    }
}

#[test]
fn no_file_can_be_opened_any_more() {
    let restricted = |path: &std::ffi::CStr, flags| {
        in_a_child(|| match files::restrict(false, &[]) {
            // SAFETY: the path outlives the call.
            Ok(()) => errno(unsafe { libc::open(path.as_ptr(), flags) }.into()),
            Err(_) => 255,
        })
    };
    if restricted(c"/dev/null", libc::O_RDONLY) == 0 {
        eprintln!("this kernel has no Landlock");
        return;
    }
    assert_eq!(restricted(c"/dev/null", libc::O_RDONLY), libc::EACCES);
    assert_eq!(restricted(c"/dev/null", libc::O_WRONLY), libc::EACCES);
    assert_eq!(restricted(c"/proc/self/fd", libc::O_RDONLY | libc::O_DIRECTORY), libc::EACCES);
    let scratch = std::env::temp_dir().join(format!("sandbox-{}", std::process::id()));
    std::fs::write(&scratch, "here").unwrap();
    let path = std::ffi::CString::new(scratch.to_str().unwrap()).unwrap();
    let removed = in_a_child(|| match files::restrict(false, &[]) {
        // SAFETY: as above.
        Ok(()) => errno(unsafe { libc::unlink(path.as_ptr()) }.into()),
        Err(_) => 255,
    });
    assert_eq!(removed, libc::EACCES);
    std::fs::remove_file(&scratch).unwrap();
}

#[test]
fn a_tcp_port_is_reached_that_was_named_and_no_other() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reached = |ports: &[u16]| {
        in_a_child(|| match files::restrict(false, ports) {
            Ok(()) => match std::net::TcpStream::connect(address) {
                Ok(_) => 0,
                Err(error) => error.raw_os_error().unwrap_or(255),
            },
            Err(_) => 255,
        })
    };
    assert_eq!(reached(&[address.port()]), 0);
    let other = reached(&[address.port().wrapping_add(1)]);
    // From Landlock's fourth version on.
    assert!(matches!(other, libc::EACCES | 0), "{other}");
}

#[test]
fn privileges_are_given_up() {
    let left = |wanted: Capabilities| {
        in_a_child(|| {
            let Ok(()) = privileges::drop_all_but(wanted) else { return 255 };
            let held = rustix::thread::capabilities(None).map_or(u64::MAX, |sets| {
                (sets.effective | sets.permitted | sets.inheritable).bits()
            });
            // SAFETY: it only asks.
            let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE) };
            if held & !wanted.bits() != 0 || dumpable != 0 { 254 } else { i32::from(held != 0) }
        })
    };
    assert_eq!(left(Capabilities::empty()), 0);
    let ours = rustix::thread::capabilities(None).unwrap().effective.bits();
    let has = ours & Capabilities::RAW_IO.bits() != 0;
    assert_eq!(left(Capabilities::RAW_IO), i32::from(has));
}

#[test]
fn no_network_is_left() {
    if rustix::process::geteuid().is_root() {
        let target = "192.0.2.1:9".parse::<std::net::SocketAddr>().unwrap();
        let outside = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = outside.local_addr().unwrap().port();
        let reached = in_a_child(|| {
            privileges::leave_network();
            let Ok(socket) = UdpSocket::bind("0.0.0.0:0") else { return 1 };
            let local = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            i32::from(socket.send_to(b"x", target).is_ok() || socket.send_to(b"x", local).is_ok())
        });
        assert_eq!(reached, 0);
    }
}

#[test]
fn it_is_not_entered_too_late() {
    let error = Sandbox::new(None).enter().unwrap_err().to_string(); // the test's own threads
    assert!(error.contains("it is too late"), "{error}");
    assert!(error.contains("--sandbox=off"), "{error}");
}
