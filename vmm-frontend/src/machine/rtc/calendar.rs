//! Seconds since 1970 and the fields of a date, in the Gregorian calendar.

/// A date and time of day, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Date {
    pub(super) year: i64,
    /// 1–12.
    pub(super) month: i64,
    /// 1–31.
    pub(super) day: i64,
    /// 1 is Sunday, as the clock has it.
    pub(super) weekday: i64,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
}

const DAY: i64 = 24 * 60 * 60;
/// Days of 400 years, after which the calendar is the same again.
const ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01. A year that begins in March has its leap day at its end.
const EPOCH: i64 = 719_468;

impl Date {
    /// What the date is at a time.
    pub(super) fn at(seconds: i64) -> Self {
        let days = seconds.div_euclid(DAY);
        let time = seconds.rem_euclid(DAY);
        let since = days + EPOCH;
        let of_era = since.rem_euclid(ERA);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = since.div_euclid(ERA) * 400 + year_of_era;
        Self {
            year: if month <= 2 { year + 1 } else { year },
            month,
            day: of_year - (153 * march_month + 2) / 5 + 1,
            // 1970-01-01 was a Thursday.
            weekday: (days + 4).rem_euclid(7) + 1,
            hour: time / 3600,
            minute: time / 60 % 60,
            second: time % 60,
        }
    }

    /// When the date is, whatever its weekday says. Fields beyond their end carry over, as 31 April
    /// is 1 May; the month alone has to be one.
    pub(super) fn seconds(&self) -> i64 {
        let month = self.month.clamp(1, 12);
        let year = if month <= 2 { self.year - 1 } else { self.year };
        let march_month = (month + 9) % 12;
        let year_of_era = year.rem_euclid(400);
        let of_year = (153 * march_month + 2) / 5 + self.day - 1;
        let of_era = 365 * year_of_era + year_of_era / 4 - year_of_era / 100 + of_year;
        let days = year.div_euclid(400) * ERA + of_era - EPOCH;
        days * DAY + self.hour * 3600 + self.minute * 60 + self.second
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_are_what_the_calendar_says() {
        let at = |seconds| {
            let date = Date::at(seconds);
            (date.year, date.month, date.day, date.weekday, date.hour, date.minute, date.second)
        };
        assert_eq!(at(0), (1970, 1, 1, 5, 0, 0, 0));
        assert_eq!(at(951_827_696), (2000, 2, 29, 3, 12, 34, 56));
        assert_eq!(at(4_107_542_399), (2100, 2, 28, 1, 23, 59, 59));
        assert_eq!(at(4_107_542_400), (2100, 3, 1, 2, 0, 0, 0));
    }

    proptest! {
        #[test]
        fn a_time_is_its_dates_time(seconds in -100_000_000_000i64..300_000_000_000) {
            prop_assert_eq!(Date::at(seconds).seconds(), seconds);
        }
    }
}
