//! Moments as RFC 3339: UTC, milliseconds.

const DAY: i64 = 86_400_000;
const FIRST: i64 = -62_135_596_800_000;
const LAST: i64 = 253_402_300_799_999;

/// Writes moments. It remembers the last day, which the occurrences of a post share.
pub struct Clock {
    day: i64,
    text: [u8; 32],
}

/// Bytes of a moment in quotes.
pub const LENGTH: usize = 26;

impl Default for Clock {
    fn default() -> Self {
        let mut text = [b' '; 32];
        text[..LENGTH].copy_from_slice(b"\"1970-01-01T00:00:00.000Z\"");
        Self { day: 0, text }
    }
}

impl Clock {
    /// Milliseconds since the epoch, in quotes, in the first `LENGTH` bytes. `None` outside the years 1 to 9999.
    #[inline]
    pub fn quoted(&mut self, milliseconds: i64) -> Option<&[u8; 32]> {
        if !(FIRST..=LAST).contains(&milliseconds) {
            return None;
        }
        let day = milliseconds.div_euclid(DAY);
        if day != self.day {
            self.turn(day);
        }
        let rest = milliseconds.rem_euclid(DAY) as u32;
        let (seconds, thousandths) = (rest / 1000, rest % 1000);
        let (minutes, second) = (seconds / 60, seconds % 60);
        two(&mut self.text[12..14], minutes / 60);
        two(&mut self.text[15..17], minutes % 60);
        two(&mut self.text[18..20], second);
        self.text[21] = b'0' + (thousandths / 100) as u8;
        two(&mut self.text[22..24], thousandths % 100);
        Some(&self.text)
    }

    #[cold]
    fn turn(&mut self, day: i64) {
        let (year, month, of_month) = civil(day);
        two(&mut self.text[1..3], year / 100);
        two(&mut self.text[3..5], year % 100);
        two(&mut self.text[6..8], month);
        two(&mut self.text[9..11], of_month);
        self.day = day;
    }
}

fn two(text: &mut [u8], number: u32) {
    text[0] = b'0' + (number / 10) as u8;
    text[1] = b'0' + (number % 10) as u8;
}

/// Year, month and day of the month of a day since the epoch, in the years 1 to 9999. Years are counted from March, so that
/// the day which some years have more is their last.
fn civil(day: i64) -> (u32, u32, u32) {
    let day = (day + 719_468) as u32; // since 0000-03-01
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153; // from March
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + u32::from(month >= 10);
    (year, if month < 10 { month + 3 } else { month - 9 }, of_month)
}
