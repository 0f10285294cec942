//! Formats timestamps by RFC 3339, in UTC with milliseconds.

const DAY: i64 = 86_400_000;
const FIRST: i64 = -62_135_596_800_000;
const LAST: i64 = 253_402_300_799_999;

/// The size in bytes of a timestamp in quotes.
pub const LENGTH: usize = 26;

/// Formats timestamps. Remembers the date of the last one, since most occurrences of a post share it.
pub struct Formatter {
    day: i64, // since the epoch
    text: [u8; 32],
}

impl Default for Formatter {
    fn default() -> Self {
        let mut text = [b' '; 32];
        text[..LENGTH].copy_from_slice(b"\"1970-01-01T00:00:00.000Z\"");
        Self { day: 0, text }
    }
}

impl Formatter {
    /// Formats milliseconds since the epoch, in quotes. Only the first `LENGTH` bytes of the result count. Returns `None`
    /// outside the years 1 to 9999.
    #[inline]
    pub fn quoted(&mut self, milliseconds: i64) -> Option<&[u8; 32]> {
        if !(FIRST..=LAST).contains(&milliseconds) {
            return None;
        }
        let day = milliseconds.div_euclid(DAY);
        if day != self.day {
            self.set_date(day);
        }
        let rest = milliseconds.rem_euclid(DAY) as u32;
        let (seconds, thousandths) = (rest / 1000, rest % 1000);
        let (minutes, second) = (seconds / 60, seconds % 60);
        put_two_digits(&mut self.text[12..14], minutes / 60);
        put_two_digits(&mut self.text[15..17], minutes % 60);
        put_two_digits(&mut self.text[18..20], second);
        self.text[21] = b'0' + (thousandths / 100) as u8;
        put_two_digits(&mut self.text[22..24], thousandths % 100);
        Some(&self.text)
    }

    #[cold]
    fn set_date(&mut self, day: i64) {
        let (year, month, day_of_month) = civil_from_days(day);
        put_two_digits(&mut self.text[1..3], year / 100);
        put_two_digits(&mut self.text[3..5], year % 100);
        put_two_digits(&mut self.text[6..8], month);
        put_two_digits(&mut self.text[9..11], day_of_month);
        self.day = day;
    }
}

fn put_two_digits(text: &mut [u8], number: u32) {
    text[0] = b'0' + (number / 10) as u8;
    text[1] = b'0' + (number % 10) as u8;
}

/// Converts days since the epoch to year, month and day of the month, for the years 1 to 9999.
///
/// Years start in March here, so that the leap day is the last of its year.
fn civil_from_days(day: i64) -> (u32, u32, u32) {
    let day = (day + 719_468) as u32; // since 0000-03-01
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153; // March is 0
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + u32::from(month >= 10);
    (year, if month < 10 { month + 3 } else { month - 9 }, day_of_month)
}
