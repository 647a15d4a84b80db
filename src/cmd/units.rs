//! Times and sizes, as people write and read them.

use crate::store::Time;
use std::time::Duration;

/// The longest time that an option takes.
const LONGEST: u64 = 10 * 366 * 86_400;
/// The smallest size that an option takes.
const SMALLEST: u64 = 16 << 20;

/// Reads a time: `90`, `90s`, `5m`, `2h`, `7d`, at most ten years.
///
/// # Errors
/// A sentence that shows the form of a time.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected a time like 30s, 5m, 2h or 7d, got {text}");
    let (digits, unit) = split_unit(text);
    let unit = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let seconds = number
        .checked_mul(unit)
        .filter(|seconds| *seconds <= LONGEST)
        .ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

/// Reads a size: `512M`, `2G`, or bytes.
///
/// # Errors
/// A sentence that shows the form of a size.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = split_unit(text);
    let unit: Option<u64> = match unit {
        "" | "B" | "b" => Some(1),
        "K" | "k" | "KiB" => Some(1 << 10),
        "M" | "m" | "MiB" => Some(1 << 20),
        "G" | "g" | "GiB" => Some(1 << 30),
        "T" | "t" | "TiB" => Some(1 << 40),
        _ => None,
    };
    let size = digits
        .parse::<u64>()
        .ok()
        .zip(unit)
        .and_then(|(n, unit)| n.checked_mul(unit));
    size.ok_or_else(|| format!("expected a size like 512M or 2G, got {text}"))
}

/// Reads a size of memory: at least 16M.
///
/// # Errors
/// As [`parse_size`].
pub fn parse_memory(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    match size {
        SMALLEST.. => Ok(size),
        _ => Err(format!("expected a size of at least 16M, got {text}")),
    }
}

/// The digits of a number with a unit, and the unit.
fn split_unit(text: &str) -> (&str, &str) {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    (digits, text.strip_prefix(digits).unwrap_or_default())
}

/// Reads a point in time: `2026-11-30`, `2026-11-30 12:00` in the local zone, RFC 3339, or
/// `@SECONDS` since 1970.
///
/// # Errors
/// A sentence that shows the form of a time.
pub fn parse_moment(text: &str) -> Result<Time, String> {
    let wrong = || format!("expected a time like 2026-11-30 or '2026-11-30 12:00', got {text}");
    if let Some(seconds) = text.strip_prefix('@') {
        let secs = seconds.parse().map_err(|_| wrong())?;
        return Ok(Time { secs, nanos: 0 });
    }
    let absolute = text.parse::<jiff::Timestamp>();
    let timestamp = absolute.or_else(|_| {
        let local = text.parse::<jiff::civil::DateTime>()?;
        local.to_zoned(jiff::tz::TimeZone::system()).map(|zoned| zoned.timestamp())
    });
    let timestamp = timestamp.map_err(|_| wrong())?;
    let nanos = timestamp.as_nanosecond().rem_euclid(1_000_000_000);
    let secs = timestamp.as_nanosecond().div_euclid(1_000_000_000);
    Ok(Time {
        secs: i64::try_from(secs).map_err(|_| wrong())?,
        nanos: u32::try_from(nanos).map_err(|_| wrong())?,
    })
}

/// Bytes with a unit of 1024.
pub fn size(bytes: u64) -> String {
    humansize::format_size(bytes, humansize::BINARY)
}

/// `12:05` or `1:02:03`.
pub fn duration(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// Seconds since 1970 as a time.
pub fn moment(secs: u64) -> Time {
    Time {
        secs: i64::try_from(secs).unwrap_or(i64::MAX),
        nanos: 0,
    }
}

/// RFC 3339 in UTC with nanoseconds. A time outside the years -9999 to 9999 is printed as seconds.
pub fn rfc3339(time: Time) -> String {
    match timestamp(time) {
        Some(timestamp) => format!("{timestamp:.9}"),
        None => format!("@{}.{:09}", time.secs, time.nanos),
    }
}

/// Local time to the minute, as `ls -l` prints it.
pub fn local_time(time: Time) -> String {
    match timestamp(time) {
        Some(t) => t
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%d %H:%M")
            .to_string(),
        None => rfc3339(time),
    }
}

fn timestamp(time: Time) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(time.secs, i32::try_from(time.nanos).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(parse_time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("2h"), Ok(Duration::from_secs(7200)));
        assert!(parse_time("soon").is_err());
        assert!(parse_time("99999999999999999999d").is_err());
        assert!(parse_time("18446744073709551615s").is_err());
        assert!(parse_time("h").is_err());
    }

    #[test]
    fn moments_are_read_as_people_write_them() {
        let secs = |text| parse_moment(text).map(|time| (time.secs, time.nanos));
        assert_eq!(secs("@-5"), Ok((-5, 0)));
        assert_eq!(secs("1970-01-01T00:00:01.5Z"), Ok((1, 500_000_000)));
        assert_eq!(secs("1969-12-31T23:59:59.5Z"), Ok((-1, 500_000_000)));
        assert!(secs("2026-11-30").is_ok() && secs("2026-11-30 12:00").is_ok());
        for wrong in ["soon", "@", "@1.5", "2026-13-01", "12:00", ""] {
            assert!(secs(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_units_and_a_least() {
        assert_eq!(parse_memory("512M"), Ok(512 << 20));
        assert_eq!(parse_memory("16777216"), Ok(16 << 20));
        for wrong in ["15M", "1X", "M", "-1G", "17179869184G"] {
            assert!(parse_memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_read_as_usual() {
        let time = Time { secs: 1, nanos: 5 };
        assert_eq!(rfc3339(time), "1970-01-01T00:00:01.000000005Z");
        let last = Time {
            secs: i64::MAX,
            nanos: 0,
        };
        assert_eq!(rfc3339(last), "@9223372036854775807.000000000");
        assert_eq!(duration(3723), "1:02:03");
        assert_eq!(duration(65), "1:05");
    }
}
