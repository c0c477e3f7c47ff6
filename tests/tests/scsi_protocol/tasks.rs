//! Task management on the control queue.

use lab::driver::{Command, Data, Initiator, InitiatorOptions, Lun, TaskManagement};
use lab::{Error, Scsi};

use crate::common::{DISK, clear_attention, pattern, works, write16};

const COMPLETE: u8 = 0;
const BAD_TARGET: u8 = 3;
const SUCCEEDED: u8 = 10;
const REJECTED: u8 = 11;
const INCORRECT_LUN: u8 = 12;

const ABORTED: u8 = 2;
const RESET: u8 = 4;

/// Written a block at a time, it takes a while.
const LARGE: u64 = 4 << 30;

fn controller() -> Result<(Scsi, Initiator), Error> {
    let scsi = Scsi::new()?.disk(16 << 20, "")?.disk(1 << 20, ",target=0")?;
    let scsi = scsi.disk(LARGE, ",target=5")?.start()?;
    let options = InitiatorOptions { queues: 2, ..InitiatorOptions::default() };
    let mut initiator = Initiator::connect(&scsi.socket(), options)?;
    for lun in [DISK, Lun::new(0, 1), Lun::new(5, 0)] {
        clear_attention(&mut initiator, lun)?.good();
    }
    Ok((scsi, initiator))
}

#[test]
fn functions_for_units_that_are_not_there() -> Result<(), Error> {
    let (_scsi, mut initiator) = controller()?;
    use TaskManagement as T;
    let all = [
        T::AbortTask,
        T::AbortTaskSet,
        T::ClearTaskSet,
        T::NexusReset,
        T::UnitReset,
        T::QueryTask,
        T::QueryTaskSet,
    ];
    for function in all {
        assert_eq!(initiator.manage(function, Lun::new(9, 0), 1)?, BAD_TARGET, "{function:?}");
        assert_eq!(initiator.manage(function, Lun([0xff; 8]), 1)?, BAD_TARGET, "{function:?}");
        let there = initiator.manage(function, DISK, 1)?;
        assert_eq!(there, COMPLETE, "{function:?} with no task under way");
        let other = initiator.manage(function, Lun::new(0, 7), 1)?;
        // A target is reset whatever the LUN says.
        let expected = if function == T::NexusReset { COMPLETE } else { INCORRECT_LUN };
        assert_eq!(other, expected, "{function:?}");
    }
    assert_eq!(initiator.manage(T::ClearAca, DISK, 0)?, REJECTED);
    Ok(())
}

#[test]
fn requests_that_are_none() -> Result<(), Error> {
    let (_scsi, mut initiator) = controller()?;
    // A subtype, then a type, that there is not.
    let subtype = [&[0, 0, 0, 0, 99, 0, 0, 0][..], &DISK.0, &[0; 8]].concat();
    initiator.send_control(&subtype, 1)?;
    assert_eq!(initiator.control_answer()?, REJECTED);
    initiator.send_control(&[77, 0, 0, 0], 1)?;
    assert_eq!(initiator.control_answer()?, 9, "FAILURE");
    // Asynchronous notification: no event can be asked for, none is there.
    let query = [&[1, 0, 0, 0][..], &DISK.0, &[0xff, 0, 0, 0]].concat();
    initiator.send_control(&query, 5)?;
    assert_eq!(initiator.control_answer()?, COMPLETE);
    Ok(())
}

#[test]
fn resets_are_told_to_the_units_that_were_reset() -> Result<(), Error> {
    let (_scsi, mut initiator) = controller()?;
    let second = Lun::new(0, 1);
    let attention = |initiator: &mut Initiator, lun| -> Result<bool, Error> {
        let answer = initiator.run(lun, &[0; 6], Data::None)?;
        Ok(answer.sense_code().is_some_and(|(key, code, _)| (key, code) == (6, 0x29)))
    };
    assert_eq!(initiator.manage(TaskManagement::UnitReset, DISK, 0)?, COMPLETE);
    assert!(attention(&mut initiator, DISK)?);
    assert!(!attention(&mut initiator, DISK)?, "it is told once");
    assert!(!attention(&mut initiator, second)?);
    assert_eq!(initiator.manage(TaskManagement::NexusReset, DISK, 0)?, COMPLETE);
    assert!(attention(&mut initiator, DISK)?);
    assert!(attention(&mut initiator, second)?);
    assert!(!attention(&mut initiator, Lun::new(5, 0))?);
    works(&mut initiator.queues[0])
}

/// A command that runs for a while on the large disk.
fn start_long_command(initiator: &mut Initiator, tag: u64) -> Result<usize, Error> {
    let mut cdb = write16(0, 0xffff);
    cdb[0] = 0x93; // WRITE SAME (16), of as many blocks as it takes
    let block = pattern(1, 1);
    let queue = &mut initiator.queues[1];
    let command = Command { lun: Lun::new(5, 0), tag, cdb: &cdb, data: Data::Out(&block) };
    let slot = queue.submit(&command)?.expect("a free slot");
    queue.slots.publish()?;
    Ok(slot)
}

/// Whether the function finds the command still running depends on the host; what it and the command
/// answer must fit together.
fn interrupt(function: TaskManagement, ended: u8) -> Result<(), Error> {
    let (_scsi, mut initiator) = controller()?;
    let large = Lun::new(5, 0);
    start_long_command(&mut initiator, 42)?;
    assert_eq!(initiator.manage(function, large, 42)?, COMPLETE);
    // The function is complete only when the command has ended.
    let done = initiator.queues[1].take()?.expect("the command has ended");
    assert!([0, ended].contains(&done.response), "{done:?}");
    let answer = initiator.queues[1].answer(done, 0)?;
    if answer.response == ended {
        assert_eq!(answer.sense, Vec::<u8>::new());
    }
    works(&mut initiator.queues[0])?;
    clear_attention(&mut initiator, large)?.good();
    Ok(())
}

#[test]
fn a_running_command_is_aborted() -> Result<(), Error> {
    interrupt(TaskManagement::AbortTask, ABORTED)
}

#[test]
fn all_commands_of_a_unit_are_aborted() -> Result<(), Error> {
    interrupt(TaskManagement::AbortTaskSet, ABORTED)
}

#[test]
fn a_reset_of_the_unit_ends_its_commands() -> Result<(), Error> {
    interrupt(TaskManagement::UnitReset, RESET)
}

#[test]
fn a_reset_of_the_target_ends_its_commands() -> Result<(), Error> {
    interrupt(TaskManagement::NexusReset, RESET)
}

#[test]
fn a_command_is_found_by_its_tag_alone() -> Result<(), Error> {
    let (_scsi, mut initiator) = controller()?;
    let large = Lun::new(5, 0);
    start_long_command(&mut initiator, 42)?;
    assert_eq!(initiator.manage(TaskManagement::QueryTask, large, 43)?, COMPLETE);
    assert_eq!(initiator.manage(TaskManagement::AbortTask, large, 43)?, COMPLETE);
    assert_eq!(initiator.manage(TaskManagement::QueryTask, DISK, 42)?, COMPLETE);
    let found = initiator.manage(TaskManagement::QueryTask, large, 42)?;
    let ended = initiator.queues[1].take()?;
    assert!(found == SUCCEEDED || ended.is_some(), "{found}, {ended:?}");
    let done = match ended {
        Some(done) => done,
        None => initiator.queues[1].wait()?,
    };
    assert_eq!((done.response, done.status), (0, 0), "it was left alone");
    Ok(())
}

#[test]
fn writes_under_way_end_before_a_reset_is_complete() -> Result<(), Error> {
    let (_scsi, mut initiator) = controller()?;
    for round in 0..50 {
        let bytes: Vec<u8> = (0..128).flat_map(|block| pattern(block, round)).collect();
        let cdb = write16(0, 128);
        for tag in 0..8 {
            let command = Command { lun: DISK, tag, cdb: &cdb, data: Data::Out(&bytes) };
            initiator.queues[1].submit(&command)?.expect("a free slot");
        }
        initiator.queues[1].slots.publish()?;
        assert_eq!(initiator.manage(TaskManagement::AbortTaskSet, DISK, 0)?, COMPLETE);
        // What the abort came too early for is done later.
        while initiator.queues[1].slots.ring.under_way() > 0 {
            let done = initiator.queues[1].wait()?;
            assert!([0, ABORTED].contains(&done.response), "{done:?}");
            initiator.queues[1].slots.release(done.slot);
        }
    }
    works(&mut initiator.queues[0])
}
