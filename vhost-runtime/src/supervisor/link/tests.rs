use std::fs::File;
use std::io::Read;
use std::thread;

use super::*;
use crate::supervisor::KeepError;

/// A supervisor that takes messages until the link is closed, and returns what it has kept.
fn supervisor(mut end: SupervisorEnd) -> thread::JoinHandle<Vec<Kept>> {
    thread::spawn(move || {
        let mut store = Store::default();
        loop {
            match end.receive(&mut store) {
                Ok(Some(_)) => {}
                Ok(None) => thread::sleep(std::time::Duration::from_millis(1)),
                Err(_) => return store.into_kept(),
            }
        }
    })
}

fn raw(link: &Link, message: &[u8]) {
    let end = link.end.as_ref().unwrap().lock().unwrap();
    send(&end.socket, message, SendFlags::empty()).unwrap();
}

#[test]
fn what_is_kept_comes_back_with_its_files() {
    let (end, link) = pair().unwrap();
    let supervisor = supervisor(end);
    let keeper = link.keeper();
    let (zero, null) = (File::open("/dev/zero").unwrap(), File::open("/dev/null").unwrap());
    keeper.keep("a", b"one", &[null.as_fd()]).unwrap();
    keeper.keep("b", &[7; DESCRIPTION], &[null.as_fd(); FDS]).unwrap();
    keeper.keep("c", b"", &[]).unwrap();
    keeper.keep("a", b"another", &[zero.as_fd()]).unwrap();
    keeper.forget("c").unwrap();
    keeper.forget("never there").unwrap();
    drop((keeper, link));
    let kept = supervisor.join().unwrap();
    let [a, b] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!((a.key.as_str(), a.description.as_slice()), ("a", b"another".as_slice()));
    let mut byte = [1];
    File::from(a.fds[0].try_clone().unwrap()).read_exact(&mut byte).unwrap();
    assert_eq!(byte, [0], "it is /dev/zero");
    assert_eq!((b.description.len(), b.fds.len()), (DESCRIPTION, FDS));
}

#[test]
fn what_is_too_large_is_refused_before_it_is_sent() {
    let (_end, link) = pair().unwrap();
    let null = File::open("/dev/null").unwrap();
    let keep = |key: &str, bytes: usize, fds: usize| {
        link.keeper().keep(key, &vec![0; bytes], &vec![null.as_fd(); fds])
    };
    assert!(matches!(keep(&"k".repeat(KEY + 1), 0, 0), Err(KeepError::TooLarge)));
    assert!(matches!(keep("k", DESCRIPTION + 1, 0), Err(KeepError::TooLarge)));
    assert!(matches!(keep("k", 0, FDS + 1), Err(KeepError::TooLarge)));
}

#[test]
fn a_process_that_was_taken_over_can_say_what_it_likes() {
    let (end, link) = pair().unwrap();
    let supervisor = supervisor(end);
    for message in [
        vec![99],
        vec![KEEP],
        vec![KEEP, 255, 255, 1],
        vec![KEEP, 2, 0, 0xff, 0xfe],
        vec![FORGET, 9],
        [vec![KEEP, 1, 0, b'k'], vec![0; DESCRIPTION + 1]].concat(),
        [vec![KEEP, 1, 0, b'k'], vec![0; DESCRIPTION + 5000]].concat(),
        [vec![KEEP, 0, 1], vec![b'k'; 256]].concat(),
    ] {
        raw(&link, &message);
    }
    // It never takes its answers either; they do not block the supervisor.
    for _ in 0..2000 {
        raw(&link, &keep("good", b"x"));
    }
    drop(link);
    let kept = supervisor.join().unwrap();
    assert_eq!(kept.iter().map(|kept| kept.key.as_str()).collect::<Vec<_>>(), ["good"]);
}

#[test]
fn nobody_keeps_where_there_is_no_supervisor() {
    let link = Link::alone();
    link.keeper().keep("a", b"one", &[]).unwrap();
    link.keeper().forget("a").unwrap();
    assert!(link.kept().is_empty());
}
