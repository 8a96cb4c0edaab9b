//! Dates of the Gregorian calendar in UTC, from Unix milliseconds (Howard Hinnant, `chrono`-compatible low-level date
//! algorithms: eras of 400 years have 146,097 days; years begin in March).

pub const DAY_MS: u64 = 86_400_000;

/// Year, month (1..=12) and day (1..=31).
pub fn date(unix_ms: u64) -> (u64, u64, u64) {
    let z = unix_ms / DAY_MS + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The first millisecond of a day.
pub fn unix_ms(year: u64, month: u64, day: u64) -> u64 {
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (y / 400, y % 400);
    let day_of_year = (153 * m + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_468) * DAY_MS
}

/// The first millisecond of the month after the one `at_ms` is in.
pub fn next_month(at_ms: u64) -> u64 {
    let (year, month, _) = date(at_ms);
    if month == 12 { unix_ms(year + 1, 1, 1) } else { unix_ms(year, month + 1, 1) }
}

/// Unix milliseconds of a time as [`rfc3339`] writes it.
pub fn parse(text: &str) -> Option<u64> {
    let part = |from: usize, to: usize| -> Option<u64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second, ms) = (part(11, 13)?, part(14, 16)?, part(17, 19)?, part(20, 23)?);
    let at = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    let at = at.then(|| unix_ms(year, month, day) + (hour * 3600 + minute * 60 + second) * 1000 + ms)?;
    // What it writes otherwise it does not read.
    (rfc3339(at) == text).then_some(at)
}

/// `2026-11-25T02:33:24.123Z` (RFC 3339).
pub fn rfc3339(at_ms: u64) -> String {
    let (year, month, day) = date(at_ms);
    let (second, ms) = (at_ms / 1000 % 86_400, at_ms % 1000);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_795_574_004_123), "2026-11-25T02:33:24.123Z");
        assert_eq!(rfc3339(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
        assert_eq!(next_month(unix_ms(2026, 12, 31)), unix_ms(2027, 1, 1));
    }

    #[test]
    fn other_texts_are_no_times() {
        for text in
            ["", "2026-02-30T00:00:00.000Z", "2026-11-25T24:00:00.000Z", "2026-11-25 02:33:24.123Z", "é026-11-25T"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_of_eight_centuries_there_and_back() {
        for day in 0..292_194 {
            let (y, m, d) = date(day * DAY_MS);
            assert_eq!(unix_ms(y, m, d), day * DAY_MS);
            assert_eq!(parse(&rfc3339(day * DAY_MS + 123)), Some(day * DAY_MS + 123));
        }
    }
}
