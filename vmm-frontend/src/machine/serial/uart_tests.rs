use proptest::prelude::*;

use super::*;

/// One whose FIFOs are enabled, with interrupts.
fn uart(ier: u8) -> Uart {
    let mut uart = Uart::default();
    uart.write(offset::IIR, fcr::ENABLE, nobody);
    uart.write(offset::IER, ier, nobody);
    uart
}

fn nobody(_: u8) -> bool {
    panic!("nothing is to be sent");
}

fn receive(uart: &mut Uart, bytes: &[u8]) {
    for byte in bytes {
        uart.receive(Received::Byte(*byte));
    }
}

const EMPTY: u8 = lsr::THR_EMPTY | lsr::TRANSMITTER_EMPTY;

#[test]
fn a_driver_finds_a_16550a() {
    let mut uart = Uart::default();
    assert_eq!(uart.read(offset::IIR), 0x01, "no FIFOs yet");
    uart.write(offset::IIR, fcr::ENABLE, nobody);
    assert_eq!(uart.read(offset::IIR), 0xc1);
    uart.write(offset::IER, 0xff, nobody);
    assert_eq!(uart.read(offset::IER), 0x0f);
    uart.write(offset::LCR, DLAB | 3, nobody);
    uart.write(0, 1, nobody);
    uart.write(1, 2, nobody);
    assert_eq!((uart.read(0), uart.read(1)), (1, 2));
    uart.write(offset::LCR, 3, nobody);
    assert_eq!((uart.read(0), uart.read(1)), (0, 0x0f), "the latch is another place");
    uart.write(offset::SCR, 0x5a, nobody);
    assert_eq!(uart.read(offset::SCR), 0x5a);
    assert_eq!(uart.read(offset::MSR), msr::CTS | msr::DSR | msr::DCD);
}

#[test]
fn output_waits_for_the_host_and_the_guest_sees_that() {
    let mut uart = uart(ier::THR_EMPTY);
    uart.read(offset::IIR);
    let mut sent = Vec::new();
    let mut room = 1;
    let mut send = |byte| {
        let taken = room > 0;
        if taken {
            room -= 1;
            sent.push(byte);
        }
        taken
    };
    uart.write(offset::DATA, b'a', &mut send);
    assert_eq!(uart.read(offset::LSR), EMPTY);
    assert_eq!(uart.read(offset::IIR), 0xc2, "and is told at once");
    for byte in b"bc" {
        uart.write(offset::DATA, *byte, &mut send);
    }
    assert_eq!((uart.read(offset::LSR), uart.is_high()), (0, false));
    room = 1;
    uart.send_waiting(|byte| std::mem::take(&mut room) > 0 && byte == b'b');
    assert_eq!((uart.read(offset::LSR), uart.is_high()), (0, false));
    uart.send_waiting(|byte| byte == b'c');
    assert_eq!((uart.read(offset::LSR), uart.is_high()), (EMPTY, true));
}

#[test]
fn enabling_the_interrupt_of_an_empty_transmitter_raises_it_each_time() {
    let mut uart = uart(ier::THR_EMPTY);
    assert_eq!([uart.read(offset::IIR), uart.read(offset::IIR)], [0xc2, 0xc1]);
    uart.write(offset::IER, 0, nobody);
    assert!(!uart.is_high());
    uart.write(offset::IER, ier::THR_EMPTY, nobody);
    assert!(uart.is_high());
}

#[test]
fn interrupts_are_told_in_their_order_and_stay_until_their_cause_is_gone() {
    let mut uart = uart(ier::ALL);
    uart.write(offset::IIR, fcr::ENABLE | 1 << fcr::TRIGGER_SHIFT, nobody);
    uart.receive(Received::Break);
    receive(&mut uart, b"abc");
    assert_eq!(uart.read(offset::IIR), 0xc6, "line status");
    let status = lsr::BREAK | lsr::ERROR_IN_FIFO | lsr::DATA_READY | EMPTY;
    assert_eq!(uart.read(offset::LSR), status);
    assert_eq!([uart.read(offset::IIR), uart.read(offset::IIR)], [0xc4; 2], "four were received");
    assert_eq!(uart.read(offset::DATA), 0, "the break");
    assert_eq!(uart.read(offset::IIR), 0xcc, "fewer than four");
    assert_eq!([uart.read(0), uart.read(0), uart.read(0)], *b"abc");
    assert_eq!(uart.read(offset::IIR), 0xc2, "the transmitter was empty all the time");
    assert_eq!(uart.read(offset::IIR), 0xc1);
}

#[test]
fn a_break_is_told_when_it_is_next() {
    let mut uart = uart(0);
    receive(&mut uart, b"a");
    uart.receive(Received::Break);
    assert_eq!(uart.read(offset::LSR), lsr::ERROR_IN_FIFO | lsr::DATA_READY | EMPTY);
    uart.read(offset::DATA);
    assert_eq!(uart.read(offset::LSR) & lsr::BREAK, lsr::BREAK);
    assert_eq!(uart.read(offset::LSR) & lsr::BREAK, 0, "once");
}

#[test]
fn there_is_room_for_as_much_as_the_fifo_holds() {
    let mut uart = Uart::default();
    assert_eq!(uart.room(), 1);
    uart.write(offset::IIR, fcr::ENABLE, nobody);
    receive(&mut uart, b"0123456789abcdef");
    assert_eq!((uart.room(), uart.read(offset::LSR) & lsr::OVERRUN), (0, 0));
    receive(&mut uart, b"x");
    assert_eq!(uart.read(offset::LSR) & lsr::OVERRUN, lsr::OVERRUN);
    assert_eq!((uart.read(offset::DATA), uart.room()), (b'0', 1));
    uart.write(offset::IIR, fcr::ENABLE | fcr::CLEAR_RECEIVER, nobody);
    assert_eq!(uart.room(), FIFO);
}

#[test]
fn in_loopback_output_is_input_and_nothing_else_is() {
    let mut uart = uart(ier::RECEIVED | ier::MODEM_STATUS);
    uart.write(offset::MCR, mcr::LOOP | mcr::RTS | mcr::OUT2, nobody);
    assert_eq!(uart.read(offset::IIR), 0xc0, "DSR has changed");
    assert_eq!(uart.read(offset::MSR), msr::CTS | msr::DCD | 1 << 1);
    assert_eq!(uart.read(offset::MSR), msr::CTS | msr::DCD);
    uart.write(offset::DATA, 0x5a, nobody);
    assert_eq!((uart.read(offset::IIR), uart.room()), (0xc4, 0));
    assert_eq!(uart.read(offset::DATA), 0x5a);
    for out1 in [mcr::OUT1, 0] {
        uart.write(offset::MCR, mcr::LOOP | mcr::RTS | mcr::OUT2 | out1, nobody);
    }
    assert_eq!(uart.read(offset::MSR) & 0x0f, 1 << 2, "the end of a ring");
}

#[test]
fn a_reset_loses_nothing_that_was_sent() {
    let mut uart = uart(ier::ALL);
    uart.write(offset::DATA, b'x', |_| false);
    receive(&mut uart, b"y");
    uart.reset();
    assert_eq!((uart.read(offset::LSR), uart.is_high()), (0, false));
    uart.send_waiting(|byte| byte == b'x');
    assert_eq!(uart.read(offset::LSR), EMPTY);
}

proptest! {
    #[test]
    fn a_guest_that_looks_first_loses_nothing(
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        takes in prop::collection::vec(any::<bool>(), 200),
        fifos in any::<bool>(),
    ) {
        let mut uart = Uart::default();
        uart.write(offset::IIR, u8::from(fifos), nobody);
        let burst = if fifos { FIFO } else { 1 };
        let mut sent = Vec::new();
        let mut takes = takes.into_iter();
        let mut send = |byte| {
            let taken = takes.next().unwrap_or(true);
            sent.extend(taken.then_some(byte));
            taken
        };
        for bytes in bytes.chunks(burst) {
            while uart.read(offset::LSR) & lsr::THR_EMPTY == 0 {
                uart.send_waiting(&mut send);
            }
            for byte in bytes {
                uart.write(offset::DATA, *byte, &mut send);
            }
        }
        while uart.read(offset::LSR) & lsr::THR_EMPTY == 0 {
            uart.send_waiting(&mut send);
        }
        prop_assert_eq!(sent, bytes);
    }

    #[test]
    fn the_line_is_high_exactly_while_a_cause_is_told(
        accesses in prop::collection::vec((0..9u64, any::<u8>(), 0..4u8), 0..100)
    ) {
        let mut uart = Uart::default();
        for (offset, value, what) in accesses {
            match what {
                0 => { uart.read(offset); }
                1 => uart.write(offset, value, |byte| byte & 1 == 0),
                2 if uart.room() > 0 => uart.receive(Received::Byte(value)),
                2 => {}
                _ => uart.receive(Received::Break),
            }
            let high = uart.is_high();
            prop_assert_eq!(uart.read(offset::IIR) & iir::NONE == 0, high);
            prop_assert!(uart.room() <= FIFO);
        }
    }
}
