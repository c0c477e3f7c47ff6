//! A command under way, and what carries it out: the engine, or a thread.

use std::io;
use std::sync::Arc;

use vhost_runtime::chain::{Buffers, Chain};

use super::layout::{COMMAND, Command, RESPONSE, Response};
use super::tmf::Order;
use crate::image::Image;
use crate::image::engine::{Engine, IoVecs, Operation};
use crate::image::gate::Entry;
use crate::lun::pass_through::{self, HostStatus, PassThrough, Ticket};
use crate::scsi::target::Address;
use crate::scsi::{Action, Cdb, Direction, LogicalUnit, Reply, Transfer};

/// What a thread did for a command: its chain comes back.
pub(super) struct Finished {
    pub(super) chain: Chain,
    pub(super) result: Result<(Reply, Response), io::Error>,
}

/// What a command waits for.
pub(super) enum Phase {
    /// To enter its unit's gate.
    Gate,
    /// For the medium.
    Transfer(Transfer),
    /// For the medium's caches.
    Flush,
    /// For a thread.
    Job,
    /// For the host to be able to do a transfer that it could not do.
    Host,
}

/// A command under way.
pub(super) struct Task {
    pub(super) queue: usize,
    /// `None` while a thread has it.
    pub(super) chain: Option<Chain>,
    pub(super) command: Command,
    pub(super) address: Address,
    pub(super) unit: Arc<dyn LogicalUnit>,
    /// Keeps the medium open, whatever becomes of the unit.
    pub(super) image: Option<Arc<dyn Image>>,
    /// What the unit wants done.
    pub(super) action: Action,
    /// The gate that it has entered.
    pub(super) entry: Option<Entry>,
    pub(super) phase: Phase,
    /// The host could not do it once; it was said.
    pub(super) waited: bool,
    /// Orders that wait for its end.
    pub(super) orders: Vec<Arc<Order>>,
}

impl Task {
    /// What the driver is told instead of its result.
    pub(super) fn ended_by(&self) -> Option<Response> {
        let order = self.orders.iter().rfind(|order| !order.is_given_up());
        order.map(|order| order.function.response())
    }
}

pub(super) fn data_in(chain: &Chain, length: u64) -> Buffers<'_> {
    let (_, data) = chain.writable().split_at(RESPONSE as u64);
    data.split_at(length).0
}

fn data_out(chain: &Chain, length: u64) -> Buffers<'_> {
    let (_, data) = chain.readable().split_at(COMMAND as u64);
    data.split_at(length).0
}

pub(super) fn begin_transfer(
    engine: &mut Engine<Finished>,
    task: &mut Task,
    transfer: Transfer,
    token: u64,
) {
    let (Some(image), Some(chain)) = (&task.image, &task.chain) else {
        return fail_job(engine, task, token);
    };
    let (data, operation) = match transfer.direction {
        Direction::Read => (data_in(chain, transfer.length), Operation::Read),
        Direction::Write { fua } => {
            let fua = fua && image.durable();
            (data_out(chain, transfer.length), Operation::Write { fua })
        }
    };
    if let Some(direct) = image.direct() {
        let iovecs: IoVecs = data.iovecs().collect();
        // SAFETY: the task keeps the image, hence the file, and the chain, hence the mapping, until
        // the completion is reported.
        unsafe { engine.submit(operation, direct, iovecs, transfer.offset, token) };
        return;
    }
    let (image, unit) = (Arc::clone(image), Arc::clone(&task.unit));
    let Some(chain) = task.chain.take() else { return };
    engine.spawn(token, move || {
        let result = copy(image.as_ref(), &chain, transfer);
        let result = match result {
            Ok(()) => Ok((unit.finish(&transfer, Ok(())), Response::Ok)),
            Err(error) => Err(error),
        };
        Finished { chain, result }
    });
}

/// Moves data of a medium that is not simply a file.
fn copy(image: &dyn Image, chain: &Chain, transfer: Transfer) -> io::Result<()> {
    let mut bytes = vec![0; usize::try_from(transfer.length).unwrap_or(0)];
    match transfer.direction {
        Direction::Read => {
            image.read_at(&mut bytes, transfer.offset)?;
            data_in(chain, transfer.length).write(&bytes);
        }
        Direction::Write { fua } => {
            data_out(chain, transfer.length).read(&mut bytes);
            image.write_at(&bytes, transfer.offset)?;
            if fua && image.durable() {
                image.flush()?;
            }
        }
    }
    Ok(())
}

pub(super) fn begin_job(
    engine: &mut Engine<Finished>,
    task: &mut Task,
    parameters: usize,
    token: u64,
) {
    let Some(chain) = task.chain.take() else { return };
    let (unit, cdb): (_, Cdb) = (Arc::clone(&task.unit), task.command.cdb);
    engine.spawn(token, move || {
        let parameters = data_out(&chain, parameters as u64).to_vec();
        let reply = unit.run(&cdb, &parameters);
        let moved = parameters.len() as u64;
        Finished { chain, result: Ok((Reply { moved, ..reply }, Response::Ok)) }
    });
}

/// The unit gets the driver's own buffers.
pub(super) fn begin_pass_through(engine: &mut Engine<Finished>, task: &mut Task, token: u64) {
    let Some(physical) = task.unit.pass_through() else { return fail_job(engine, task, token) };
    let Some(chain) = task.chain.take() else { return };
    let (pool, ticket) = (physical.pool(), physical.ticket());
    let (unit, cdb) = (Arc::clone(&task.unit), task.command.cdb);
    engine.spawn_on(pool, token, move || {
        let result = match unit.pass_through() {
            Some(physical) => pass_through(physical, ticket, &cdb, &chain),
            None => (Reply::good(), Response::TargetFailure),
        };
        Finished { chain, result: Ok(result) }
    });
}

fn pass_through(unit: &PassThrough, ticket: Ticket, cdb: &Cdb, chain: &Chain) -> (Reply, Response) {
    let input = data_in(chain, u64::MAX);
    let output = data_out(chain, u64::MAX);
    let (way, data) = match (input.is_empty(), output.is_empty()) {
        (false, _) => (pass_through::Direction::In, input),
        (true, false) => (pass_through::Direction::Out, output),
        (true, true) => (pass_through::Direction::None, input),
    };
    let iovecs: Vec<libc::iovec> = data.iovecs().collect();
    // SAFETY: the chain keeps the memory mapped until this returns.
    let executed = unsafe { unit.execute(ticket, cdb, way, &iovecs) };
    let mut reply = executed.reply;
    if way == pass_through::Direction::In {
        let moved = data.split_at(reply.moved).0;
        moved.mark_dirty();
        let start = moved.split_at(64).0.to_vec();
        if let Some(adjusted) = unit.adjust(cdb, &start) {
            moved.write(&adjusted);
        }
    }
    let response = match executed.host {
        HostStatus::Ok => Response::Ok,
        HostStatus::NoConnect => Response::BadTarget,
        HostStatus::Busy => Response::Busy,
        HostStatus::TimedOut | HostStatus::Aborted => Response::Aborted,
        HostStatus::Reset => Response::Reset,
        HostStatus::Transport => Response::TransportFailure,
        HostStatus::Target => Response::TargetFailure,
        HostStatus::Nexus => Response::NexusFailure,
        HostStatus::Error => Response::Failure,
    };
    if response != Response::Ok {
        reply.moved = 0;
    }
    (reply, response)
}

/// The unit's medium has gone while the command waited.
fn fail_job(engine: &mut Engine<Finished>, task: &mut Task, token: u64) {
    let Some(chain) = task.chain.take() else { return };
    engine.spawn(token, move || Finished {
        chain,
        result: Ok((Reply::good(), Response::TargetFailure)),
    });
}
