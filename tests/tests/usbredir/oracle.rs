//! usbredir's own parser, in C.

use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::OnceLock;

use lab::Machine;

/// Callbacks, by their places in the structure that programs see: `usbredirparser.h`.
pub(crate) mod callback {
    pub(crate) const DEVICE_CONNECT: usize = 4;
    pub(crate) const DEVICE_DISCONNECT: usize = 5;
    pub(crate) const RESET: usize = 6;
    pub(crate) const INTERFACE_INFO: usize = 7;
    pub(crate) const EP_INFO: usize = 8;
    pub(crate) const SET_CONFIGURATION: usize = 9;
    pub(crate) const CONFIGURATION_STATUS: usize = 11;
    pub(crate) const SET_ALT_SETTING: usize = 12;
    pub(crate) const ALT_SETTING_STATUS: usize = 14;
    pub(crate) const START_ISO_STREAM: usize = 15;
    pub(crate) const STOP_ISO_STREAM: usize = 16;
    pub(crate) const ISO_STREAM_STATUS: usize = 17;
    pub(crate) const START_INTERRUPT_RECEIVING: usize = 18;
    pub(crate) const STOP_INTERRUPT_RECEIVING: usize = 19;
    pub(crate) const INTERRUPT_RECEIVING_STATUS: usize = 20;
    pub(crate) const BULK_STREAMS_STATUS: usize = 23;
    pub(crate) const CANCEL_DATA_PACKET: usize = 24;
    pub(crate) const CONTROL_PACKET: usize = 25;
    pub(crate) const BULK_PACKET: usize = 26;
    pub(crate) const ISO_PACKET: usize = 27;
    pub(crate) const INTERRUPT_PACKET: usize = 28;
    pub(crate) const HELLO: usize = 33;
    pub(crate) const FILTER_REJECT: usize = 34;
    pub(crate) const FILTER_FILTER: usize = 35;
    pub(crate) const DEVICE_DISCONNECT_ACK: usize = 36;
    pub(crate) const START_BULK_RECEIVING: usize = 37;
    pub(crate) const STOP_BULK_RECEIVING: usize = 38;
    pub(crate) const BULK_RECEIVING_STATUS: usize = 39;
    pub(crate) const BUFFERED_BULK_PACKET: usize = 40;
}

const LOG: usize = 1;
const READ: usize = 2;
const WRITE: usize = 3;
/// It is the side that has the device.
const HOST: c_int = 1;

/// What a parser has called back: which callback, the id, the header as it is packed, the data.
pub(crate) type Called = (usize, u64, Vec<u8>, Vec<u8>);

/// What the callbacks of a parser reach.
#[derive(Default)]
struct World {
    input: Vec<u8>,
    output: Vec<u8>,
    called: Vec<Called>,
}

fn symbol(name: &str) -> *mut c_void {
    static LIBRARY: OnceLock<usize> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        let path = Machine::usbredir().expect("usbredir's parser can be had");
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the path is a string; the library's constructors do nothing.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!library.is_null(), "{path:?}");
        library as usize
    });
    let name = CString::new(name).unwrap();
    // SAFETY: the library is never closed.
    let symbol = unsafe { libc::dlsym(*library as *mut c_void, name.as_ptr()) };
    assert!(!symbol.is_null(), "{name:?}");
    symbol
}

/// The function of that name, as what it is.
macro_rules! function {
    ($name:expr, $type:ty) => {{
        // SAFETY: the type is the one that usbredirparser.h declares.
        unsafe { std::mem::transmute::<*mut c_void, $type>(symbol($name)) }
    }};
}

/// A parser.
pub(crate) struct Oracle {
    parser: *mut *mut c_void,
    world: *mut World,
}

extern "C" fn log(_world: *mut c_void, _level: c_int, _message: *const c_char) {}

extern "C" fn read(world: *mut c_void, to: *mut u8, count: c_int) -> c_int {
    // SAFETY: it is the parser's world, which nobody else uses while a function of the parser runs.
    let world = unsafe { &mut *world.cast::<World>() };
    let count = usize::try_from(count).unwrap().min(world.input.len());
    // SAFETY: there is room for as many bytes.
    unsafe { std::ptr::copy_nonoverlapping(world.input.as_ptr(), to, count) };
    world.input.drain(..count);
    c_int::try_from(count).unwrap()
}

extern "C" fn write(world: *mut c_void, from: *mut u8, count: c_int) -> c_int {
    // SAFETY: as above; there are as many bytes.
    let (world, bytes) = unsafe {
        let bytes = std::slice::from_raw_parts(from, usize::try_from(count).unwrap());
        (&mut *world.cast::<World>(), bytes)
    };
    world.output.extend(bytes);
    count
}

/// A callback's note. `header` and `data` have so many bytes.
fn note(
    world: *mut c_void,
    which: usize,
    id: u64,
    header: *const u8,
    header_length: usize,
    data: *mut u8,
    length: c_int,
) {
    let copy = |from: *const u8, length: usize| match from.is_null() || length == 0 {
        true => Vec::new(),
        // SAFETY: there are as many bytes.
        false => unsafe { std::slice::from_raw_parts(from, length) }.to_vec(),
    };
    // SAFETY: as in `read`.
    let world = unsafe { &mut *world.cast::<World>() };
    let bytes = copy(data, usize::try_from(length).unwrap());
    world.called.push((which, id, copy(header, header_length), bytes));
    // SAFETY: data are the callback's to free, by free(3), as usbredirparser_free_packet_data does.
    unsafe { libc::free(data.cast()) };
}

extern "C" fn bare<const N: usize>(world: *mut c_void) {
    note(world, N, 0, std::ptr::null(), 0, std::ptr::null_mut(), 0);
}

extern "C" fn only_id<const N: usize>(world: *mut c_void, id: u64) {
    note(world, N, id, std::ptr::null(), 0, std::ptr::null_mut(), 0);
}

extern "C" fn unsolicited<const N: usize, const L: usize>(world: *mut c_void, header: *const u8) {
    note(world, N, 0, header, L, std::ptr::null_mut(), 0);
}

extern "C" fn control<const N: usize, const L: usize>(
    world: *mut c_void,
    id: u64,
    header: *const u8,
) {
    note(world, N, id, header, L, std::ptr::null_mut(), 0);
}

extern "C" fn data<const N: usize, const L: usize>(
    world: *mut c_void,
    id: u64,
    header: *const u8,
    data: *mut u8,
    length: c_int,
) {
    note(world, N, id, header, L, data, length);
}

extern "C" fn filter(world: *mut c_void, rules: *mut u8, count: c_int) {
    // A rule is five numbers of the machine's.
    let length = count.checked_mul(20).unwrap();
    note(world, callback::FILTER_FILTER, 0, std::ptr::null(), 0, rules, length);
}

impl Oracle {
    /// One of either side, with these capabilities, which has said hello.
    pub(crate) fn new(is_host: bool, capabilities: u32) -> Self {
        let create = function!("usbredirparser_create", extern "C" fn() -> *mut *mut c_void);
        let parser = create();
        assert!(!parser.is_null());
        let world = Box::into_raw(Box::<World>::default());
        let set = |place: usize, what: *mut c_void| {
            // SAFETY: the structure begins with 41 pointers, and the places are below that.
            unsafe { *parser.add(place) = what };
        };
        set(0, world.cast());
        set(LOG, log as *mut c_void);
        set(READ, read as *mut c_void);
        set(WRITE, write as *mut c_void);
        {
            use callback::*;
            set(DEVICE_CONNECT, unsolicited::<DEVICE_CONNECT, 10> as *mut c_void);
            set(DEVICE_DISCONNECT, bare::<DEVICE_DISCONNECT> as *mut c_void);
            set(RESET, bare::<RESET> as *mut c_void);
            set(INTERFACE_INFO, unsolicited::<INTERFACE_INFO, 132> as *mut c_void);
            set(EP_INFO, unsolicited::<EP_INFO, 288> as *mut c_void);
            set(SET_CONFIGURATION, control::<SET_CONFIGURATION, 1> as *mut c_void);
            set(CONFIGURATION_STATUS, control::<CONFIGURATION_STATUS, 2> as *mut c_void);
            set(SET_ALT_SETTING, control::<SET_ALT_SETTING, 2> as *mut c_void);
            set(ALT_SETTING_STATUS, control::<ALT_SETTING_STATUS, 3> as *mut c_void);
            set(START_ISO_STREAM, control::<START_ISO_STREAM, 3> as *mut c_void);
            set(STOP_ISO_STREAM, control::<STOP_ISO_STREAM, 1> as *mut c_void);
            set(ISO_STREAM_STATUS, control::<ISO_STREAM_STATUS, 2> as *mut c_void);
            set(START_INTERRUPT_RECEIVING, control::<START_INTERRUPT_RECEIVING, 1> as *mut c_void);
            set(STOP_INTERRUPT_RECEIVING, control::<STOP_INTERRUPT_RECEIVING, 1> as *mut c_void);
            let status = control::<INTERRUPT_RECEIVING_STATUS, 2> as *mut c_void;
            set(INTERRUPT_RECEIVING_STATUS, status);
            set(BULK_STREAMS_STATUS, control::<BULK_STREAMS_STATUS, 9> as *mut c_void);
            set(START_BULK_RECEIVING, control::<START_BULK_RECEIVING, 10> as *mut c_void);
            set(STOP_BULK_RECEIVING, control::<STOP_BULK_RECEIVING, 5> as *mut c_void);
            set(BULK_RECEIVING_STATUS, control::<BULK_RECEIVING_STATUS, 6> as *mut c_void);
            set(CANCEL_DATA_PACKET, only_id::<CANCEL_DATA_PACKET> as *mut c_void);
            set(CONTROL_PACKET, data::<CONTROL_PACKET, 10> as *mut c_void);
            set(BULK_PACKET, data::<BULK_PACKET, 10> as *mut c_void);
            set(ISO_PACKET, data::<ISO_PACKET, 4> as *mut c_void);
            set(INTERRUPT_PACKET, data::<INTERRUPT_PACKET, 4> as *mut c_void);
            set(BUFFERED_BULK_PACKET, data::<BUFFERED_BULK_PACKET, 10> as *mut c_void);
            set(HELLO, unsolicited::<HELLO, 64> as *mut c_void);
            set(FILTER_REJECT, bare::<FILTER_REJECT> as *mut c_void);
            set(FILTER_FILTER, filter as *mut c_void);
            set(DEVICE_DISCONNECT_ACK, bare::<DEVICE_DISCONNECT_ACK> as *mut c_void);
        }
        type Init = extern "C" fn(*mut *mut c_void, *const c_char, *mut u32, c_int, c_int);
        let init = function!("usbredirparser_init", Init);
        let mut capabilities = [capabilities];
        let flags = if is_host { HOST } else { 0 };
        init(parser, c"oracle".as_ptr(), capabilities.as_mut_ptr(), 1, flags);
        Self { parser, world }
    }

    fn world(&mut self) -> &mut World {
        // SAFETY: it lives as long as the parser, none of whose functions runs now.
        unsafe { &mut *self.world }
    }

    /// What it calls back when it reads that; `None`: some of it is no packet.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Option<Vec<Called>> {
        self.world().input.extend(bytes);
        let read = function!("usbredirparser_do_read", extern "C" fn(*mut *mut c_void) -> c_int);
        let mut good = true;
        while !self.world().input.is_empty() {
            good &= read(self.parser) == 0;
        }
        let called = std::mem::take(&mut self.world().called);
        good.then_some(called)
    }

    /// What it has to send.
    pub(crate) fn written(&mut self) -> Vec<u8> {
        let write = function!("usbredirparser_do_write", extern "C" fn(*mut *mut c_void) -> c_int);
        assert_eq!(write(self.parser), 0);
        std::mem::take(&mut self.world().output)
    }

    /// Has it send a packet without id or data.
    pub(crate) fn send_unsolicited(&mut self, name: &str, header: &[u8]) {
        type Send = extern "C" fn(*mut *mut c_void, *const u8);
        function!(&format!("usbredirparser_send_{name}"), Send)(self.parser, header.as_ptr());
    }

    /// Has it send an answer.
    pub(crate) fn send_status(&mut self, name: &str, id: u64, header: &[u8]) {
        type Send = extern "C" fn(*mut *mut c_void, u64, *const u8);
        function!(&format!("usbredirparser_send_{name}"), Send)(self.parser, id, header.as_ptr());
    }

    /// Has it send data.
    pub(crate) fn send_data(&mut self, name: &str, id: u64, header: &[u8], data: &[u8]) {
        type Send = extern "C" fn(*mut *mut c_void, u64, *const u8, *const u8, c_int);
        let send = function!(&format!("usbredirparser_send_{name}"), Send);
        let length = c_int::try_from(data.len()).unwrap();
        // It wants none rather than an empty one.
        let data = if data.is_empty() { std::ptr::null() } else { data.as_ptr() };
        send(self.parser, id, header.as_ptr(), data, length);
    }
}

/// Whether its filter, by rules as they are told, lets a device in: by its class, vendor, product and
/// version, and its interfaces' classes, subclasses and protocols.
pub(crate) fn allows(rules: &str, device: (u8, u16, u16, u16), interfaces: &[[u8; 3]]) -> bool {
    type Parse = extern "C" fn(
        *const c_char,
        *const c_char,
        *const c_char,
        *mut *mut c_void,
        *mut c_int,
    ) -> c_int;
    #[rustfmt::skip]
    type Check = extern "C" fn(
        *const c_void, c_int, u8, u8, u8, *const u8, *const u8, *const u8, c_int, u16, u16, u16, c_int,
    ) -> c_int;
    let text = CString::new(rules).unwrap();
    let (mut parsed, mut count) = (std::ptr::null_mut(), 0);
    let parse = function!("usbredirfilter_string_to_rules", Parse);
    let result =
        parse(text.as_ptr(), c",".as_ptr(), c"|".as_ptr(), &raw mut parsed, &raw mut count);
    assert_eq!(result, 0, "{rules}");
    let [classes, subclasses, protocols] =
        [0, 1, 2].map(|field| interfaces.iter().map(|class| class[field]).collect::<Vec<u8>>());
    let (class, vendor, product, version) = device;
    let check = function!("usbredirfilter_check", Check);
    let result = check(
        parsed,
        count,
        class,
        0,
        0,
        classes.as_ptr(),
        subclasses.as_ptr(),
        protocols.as_ptr(),
        c_int::try_from(interfaces.len()).unwrap(),
        vendor,
        product,
        version,
        0,
    );
    // SAFETY: the rules are the caller's, from malloc(3).
    unsafe { libc::free(parsed) };
    result == 0
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let destroy = function!("usbredirparser_destroy", extern "C" fn(*mut *mut c_void));
        destroy(self.parser);
        // SAFETY: it was a box, and the parser that used it is no more.
        drop(unsafe { Box::from_raw(self.world) });
    }
}
