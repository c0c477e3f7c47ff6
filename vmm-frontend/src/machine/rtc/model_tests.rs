use proptest::prelude::*;

use super::*;

const MILLISECOND: Nanoseconds = SECOND / 1000;

/// 2024-02-29 23:59:58 UTC, a Thursday.
const START: Nanoseconds = 1_709_251_198 * SECOND;

fn model() -> Model {
    Model::new(START, Memory::default())
}

/// Century, year, month, day, weekday, hours, minutes, seconds.
fn time(model: &mut Model, now: Nanoseconds) -> [u8; 8] {
    [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| model.read(index, now))
}

#[test]
fn the_time_is_the_hosts_in_bcd_and_24_hours() {
    let mut model = model();
    let now = START;
    assert_eq!(time(&mut model, now), [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]);
    let now = START + 2 * SECOND;
    assert_eq!(time(&mut model, now), [0x20, 0x24, 0x03, 0x01, 6, 0, 0, 0]);
    model.write(index::B, b::DM_BINARY, now);
    assert_eq!(time(&mut model, now), [20, 24, 3, 1, 6, 12, 0, 0], "midnight is 12 a.m.");
    assert_eq!(model.read(index::HOURS, now + 13 * 3600 * SECOND), PM | 1);
}

#[test]
fn the_update_is_announced() {
    let mut model = model();
    assert_eq!(model.read(index::A, START + 999 * MILLISECOND), 0x26);
    assert_eq!(model.read(index::A, START + SECOND - UPDATE_AHEAD), a::UIP | 0x26);
    assert_eq!(model.read(index::A, START + SECOND), 0x26);
    model.write(index::B, b::SET | b::HOURS_24, START);
    assert_eq!(model.read(index::A, START + SECOND - 1), 0x26, "not while it stands still");
}

#[test]
fn a_guest_sets_the_time_as_linux_does() {
    let mut model = model();
    let mut write = |index, value, now| model.write(index, value, now);
    write(index::B, b::SET | b::HOURS_24, START);
    write(index::A, a::DV | 6, START);
    for (index, value) in [(9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x59)] {
        write(index, value, START);
    }
    write(index::CENTURY, 0x19, START);
    let now = START + 10 * SECOND;
    write(index::B, b::HOURS_24, now);
    write(index::A, 0x26, now);
    let set = [0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x59];
    assert_eq!(time(&mut model, now + 499 * MILLISECOND), set);
    let next = [0x20, 0, 0x01, 0x01, 7, 0, 0, 0];
    assert_eq!(time(&mut model, now + 500 * MILLISECOND), next, "half a second after the divider");
}

#[test]
fn one_field_is_set_while_the_clock_runs() {
    let mut model = model();
    model.write(index::HOURS, 0x07, START + SECOND / 4);
    assert_eq!(model.read(index::HOURS, START + 2 * SECOND), 0x08, "a new hour, not a new day");
    assert_eq!(model.read(index::DAY, START + 2 * SECOND), 0x29);
}

#[test]
fn flags_are_set_whether_they_interrupt_or_not_and_reading_clears_them() {
    let mut model = model();
    assert_eq!(model.read(index::C, START + 1), 0);
    assert_eq!(model.read(index::C, START + MILLISECOND), c::PF);
    assert_eq!(model.read(index::C, START + SECOND), c::PF | c::UF);
    assert_eq!(model.read(index::C, START + 2 * SECOND), c::PF | c::UF | c::AF, "midnight");
    assert_eq!(model.read(index::C, START + 2 * SECOND), 0);
    assert_eq!(model.next_rise(START), None, "nobody wants an interrupt");
}

#[test]
fn an_interrupt_is_due_when_its_flag_will_be_set() {
    let mut model = model();
    model.write(index::B, b::UIE | b::HOURS_24, START + 300 * MILLISECOND);
    let due = START + SECOND;
    assert_eq!(model.next_rise(START + 300 * MILLISECOND), Some(due));
    model.work_out(due - 1);
    assert!(!model.is_high());
    model.work_out(due);
    assert!(model.is_high());
    assert_eq!(model.next_rise(due), None, "it is high until register C is read");
    assert_eq!(model.read(index::C, due), c::IRQF | c::UF | c::PF);
    assert_eq!(model.next_rise(due), Some(START + 2 * SECOND));
}

#[test]
fn an_alarm_matches_what_it_says_and_anything_where_it_says_so() {
    let mut model = model();
    let mut alarm = |hour, minute, second| {
        model.write(index::B, b::AIE | b::HOURS_24, START);
        for (index, value) in [(5, hour), (3, minute), (1, second)] {
            model.write(index, value, START);
        }
        model.next_rise(START).map(|due| (due - START) / SECOND)
    };
    assert_eq!(alarm(0x00, 0x00, 0x00), Some(2));
    assert_eq!(alarm(0x23, 0x59, 0x58), Some(24 * 3600), "now is too late");
    assert_eq!(alarm(ANY, 0x30, 0x07), Some(2 + 30 * 60 + 7));
    assert_eq!(alarm(0xff, 0xff, 0xff), Some(1));
    assert_eq!(alarm(0x12, ANY, 0x01), Some(2 + 12 * 3600 + 1));
    assert_eq!(alarm(0x24, ANY, ANY), None, "never");
}

#[test]
fn a_host_clock_that_is_set_moves_the_guests_and_sets_no_flag() {
    let mut model = model();
    model.write(index::B, b::UIE | b::HOURS_24, START);
    let earlier = START - 3600 * SECOND;
    model.work_out(earlier);
    assert!(!model.is_high());
    assert_eq!(model.read(index::HOURS, earlier), 0x22);
    assert_eq!(model.next_rise(earlier), Some(earlier + SECOND));
}

#[test]
fn a_reset_keeps_time_and_memory_but_no_interrupt() {
    let mut model = model();
    model.write(index::B, b::UIE | b::PIE | b::AIE | b::HOURS_24, START);
    model.write(0x0f, 0x5a, START);
    model.work_out(START + SECOND);
    model.reset(START + SECOND);
    assert!(!model.is_high());
    assert_eq!(model.read(index::B, START + SECOND), b::HOURS_24);
    assert_eq!(model.read(0x0f, START + SECOND), 0x5a);
    assert_eq!(model.read(index::SECONDS, START + SECOND), 0x59);
}

#[derive(Clone, Debug)]
enum Step {
    Read(u8),
    Write(u8, u8),
    Wait(Nanoseconds),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Most registers that mean something are the first.
    let index = prop_oneof![4 => 0..14u8, 1 => any::<u8>()];
    let step = prop_oneof![
        index.clone().prop_map(Step::Read),
        (index, any::<u8>()).prop_map(|(index, value)| Step::Write(index, value)),
        (-5 * SECOND..100_000 * SECOND).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..64)
}

proptest! {
    #[test]
    fn whatever_a_guest_does_an_interrupt_comes_when_it_is_due(steps in steps()) {
        let mut model = model();
        let mut now = START;
        for step in steps {
            match step {
                Step::Read(index) => { model.read(index, now); }
                Step::Write(index, value) => model.write(index, value, now),
                Step::Wait(time) => now += time,
            }
            model.work_out(now);
            if let Some(due) = model.next_rise(now) {
                prop_assert!(due > now);
                model.work_out(due - 1);
                prop_assert!(!model.is_high());
                model.work_out(due);
                prop_assert!(model.is_high());
                now = due;
            }
        }
    }

    #[test]
    fn hours_of_any_format_are_read_as_they_are_written(hour in 0..24i64, format in any::<u8>()) {
        let mut model = model();
        model.put(index::B, format & (b::DM_BINARY | b::HOURS_24));
        prop_assert_eq!(i64::from(model.decode_hour(model.encode_hour(hour))), hour);
    }

    #[test]
    fn fields_of_any_format_are_read_as_they_are_written(value in 0..100i64, format in any::<u8>()) {
        let mut model = model();
        model.put(index::B, format & (b::DM_BINARY | b::HOURS_24));
        prop_assert_eq!(i64::from(model.decode(model.encode(value))), value);
    }
}
