use std::fs::File;
use std::os::unix::fs::FileExt;

use vhost_runtime::memory::{Memory, RegionSpec};
use vhost_runtime::queue::{Base, RingSetup};

use super::*;
use crate::image::engine::EngineKind;
use crate::lun::pass_through::PassThrough;
use crate::virtio::controller::ControllerOptions;
use crate::virtio::remote::Remote;

const SETUP: RingSetup = RingSetup {
    size: 4,
    descriptors: 0,
    available: 0x100,
    used: 0x200,
    base: Base::Split(0),
    event_index: false,
    indirect: false,
};
const REQUEST: u64 = 0x1000;
const RESPONSE: u64 = 0x2000;

/// A guest's memory with one task management request in its control queue.
fn request(subtype: u32) -> (File, Queue) {
    let file = tempfile();
    file.set_len(0x10000).unwrap();
    let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).unwrap();
    let descriptor = |at: u64, length: u32, flags: u16, next: u16| {
        let mut bytes = at.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        bytes
    };
    put(0, &descriptor(REQUEST, 24, 1, 1));
    put(16, &descriptor(RESPONSE, 1, 2, 0));
    put(0x102, &1u16.to_le_bytes());
    put(REQUEST + 4, &subtype.to_le_bytes());
    put(REQUEST + 8, &[1, 0, 0, 0, 0, 0, 0, 0]);
    put(REQUEST + 16, &7u64.to_le_bytes());
    put(RESPONSE, &[0xff]);
    let region =
        RegionSpec { guest: 0, size: 0x10000, user: 0, offset: 0, file: file.try_clone().unwrap() };
    let memory = Arc::new(Memory::new([region], Arc::default()).unwrap());
    (file, Queue::start(CONTROL_QUEUE, SETUP, memory, None).unwrap())
}

fn tempfile() -> File {
    // SAFETY: the name is a C string; the descriptor is fresh.
    unsafe {
        use std::os::fd::FromRawFd;
        let fd = libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        File::from_raw_fd(fd)
    }
}

fn answer(file: &File) -> u8 {
    let mut byte = [0];
    file.read_exact_at(&mut byte, RESPONSE).unwrap();
    byte[0]
}

/// A controller with a physical unit, and a request worker that never gets round to its orders.
fn controller() -> (Arc<Controller>, Arc<Remote>) {
    let options = ControllerOptions { queues: 1, engine: EngineKind::Threads };
    let controller = Arc::new(Controller::new(options).unwrap());
    controller.bus().insert(Address { target: 0, lun: 0 }, PassThrough::that_answers_nothing());
    let remote = Arc::new(Remote::new().unwrap());
    controller.remotes().push(Arc::clone(&remote));
    (controller, remote)
}

#[test]
fn what_a_physical_unit_does_not_abort_in_time_is_told() {
    const ABORT_TASK: u32 = 0;
    let (controller, remote) = controller();
    let mut worker = ControlWorker::new(controller).unwrap();
    let (file, mut queue) = request(ABORT_TASK);
    worker.process(&mut queue);
    worker.give_up_in_time(&mut queue, Instant::now());
    assert_eq!(answer(&file), 0xff, "there is time yet");
    worker.give_up_in_time(&mut queue, Instant::now() + PATIENCE);
    assert_eq!(answer(&file), FunctionResponse::Failure as u8);
    assert_eq!(worker.in_flight(CONTROL_QUEUE), 0);
    let orders = remote.take_orders();
    assert!(orders.iter().all(|order| order.is_given_up()), "tasks end with their own results");
    drop(orders);
    assert_eq!(worker.done.take().len(), 1, "carried out in the end, for nobody");
}

#[test]
fn a_physical_unit_is_reset_before_its_tasks_have_ended() {
    const LOGICAL_UNIT_RESET: u32 = 5;
    let (controller, remote) = controller();
    let mut worker = ControlWorker::new(controller).unwrap();
    let (_file, mut queue) = request(LOGICAL_UNIT_RESET);
    worker.process(&mut queue);
    let orders = remote.take_orders();
    // Held here, for the tasks, and by the thread that resets the unit, until it has.
    let end = Instant::now() + Duration::from_secs(10);
    while orders.iter().any(|order| Arc::strong_count(order) > 1) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(orders.iter().all(|order| Arc::strong_count(order) == 1));
    assert!(worker.done.take().is_empty(), "the tasks have not ended");
    drop(orders);
    assert_eq!(worker.done.take().len(), 1);
}
