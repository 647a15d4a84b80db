//! Rates, as people write and read them.

use super::units::size;
use crate::net::data::pacer::LEAST_RATE;
use std::fmt;

/// Bytes a second; `None`: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub Option<u64>);

/// Reads a rate as rsync does: `2M`, `1.5m`, `500k`, `500` (KiB); `MB` and `kB` are powers of 1000.
/// `off` and `0` are no limit.
///
/// # Errors
/// A sentence that shows the form of a rate.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    let wrong = || format!("expected a rate like 2M, 500k or off, got {text}");
    if text == "off" {
        return Ok(Rate(None));
    }
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.strip_prefix(number).unwrap_or_default();
    let form = |c: char| c.is_ascii_digit() || c == '.';
    let number = Some(number).filter(|n| n.starts_with(|c: char| c.is_ascii_digit()));
    let number = number.filter(|n| n.chars().all(form)).ok_or_else(wrong)?;
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = (number * unit_of(unit).ok_or_else(wrong)?).round();
    if bytes == 0.0 {
        return Ok(Rate(None));
    }
    // the bounds of a number that this cast keeps
    if bytes > (1_u64 << 50) as f64 {
        return Err(wrong());
    }
    match bytes as u64 {
        rate @ LEAST_RATE.. => Ok(Rate(Some(rate))),
        _ => Err(format!(
            "expected a rate of at least {} a second, got {text}",
            size(LEAST_RATE)
        )),
    }
}

/// Bytes of a unit; none: KiB.
fn unit_of(unit: &str) -> Option<f64> {
    let unit = unit.to_ascii_lowercase();
    if unit == "b" {
        return Some(1.0);
    }
    let (letter, base) = match unit.get(1..) {
        Some("b") => (unit.get(..1)?, 1000.0_f64),
        None | Some("" | "ib") => (unit.get(..1).unwrap_or("k"), 1024.0),
        Some(_) => return None,
    };
    let power = match letter {
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    Some(base.powi(power))
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) => write!(f, "{}/s", size(rate)),
            None => f.write_str("off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_rsync() {
        for (text, bytes) in [
            ("2M", 2 << 20),
            ("1.5m", 3 << 19),
            ("500k", 500 << 10),
            ("500", 500 << 10),
            ("1MB", 1_000_000),
            ("100kB", 100_000),
            ("1MiB", 1 << 20),
            ("20000b", 20_000),
            ("1g", 1 << 30),
        ] {
            assert_eq!(parse_rate(text), Ok(Rate(Some(bytes))), "{text}");
        }
        assert_eq!(parse_rate("0"), Ok(Rate(None)));
        assert_eq!(parse_rate("off"), Ok(Rate(None)));
        for wrong in [
            "", "M", "2X", "-1M", "1e9M", "nanM", "inf", ".5M", "1.2.3M", "1", "9999t", "2Mb/s",
        ] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Rate(Some(2 << 20)).to_string(), "2 MiB/s");
    }
}
