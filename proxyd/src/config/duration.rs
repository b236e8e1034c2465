//! Durations as Go writes them: `30s`, `1h30m`, `1.5s`, `250ms`.
//!
//! The grammar is that of Go's `time.ParseDuration`, less negative values: no setting has a use
//! for one.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DurationError {
    /// Empty, or something where a number belongs.
    #[error("not a duration: write for example 30s, 1h30m or 250ms")]
    Syntax,
    /// A number without a unit behind it.
    #[error("a unit is missing: write for example 30s")]
    NoUnit,
    /// A unit that Go does not know; days are one.
    #[error("unknown unit {0:?}: the units are h, m, s, ms, us and ns")]
    Unit(String),
    /// Below zero.
    #[error("must not be negative")]
    Negative,
    /// Beyond Go's range of about 292 years.
    #[error("too long")]
    TooLong,
}

/// Parses a duration in Go's syntax.
pub(super) fn parse(text: &str) -> Result<Duration, DurationError> {
    if text.starts_with('-') {
        return Err(DurationError::Negative);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(DurationError::Syntax);
    }
    let mut nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let (part, after) = one_part(rest)?;
        nanoseconds = nanoseconds.checked_add(part).ok_or(DurationError::TooLong)?;
        rest = after;
    }
    let nanoseconds = i64::try_from(nanoseconds).map_err(|_| DurationError::TooLong)?;
    Ok(Duration::from_nanos(nanoseconds.unsigned_abs()))
}

/// A number and its unit at the front of `text`, in nanoseconds, and what follows them.
fn one_part(text: &str) -> Result<(u128, &str), DurationError> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => digits(after),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::Syntax);
    }
    let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    let unit = unit_nanoseconds(unit)?;
    let whole: u128 =
        if whole.is_empty() { 0 } else { whole.parse().map_err(|_| DurationError::TooLong)? };
    let whole = whole.checked_mul(unit).ok_or(DurationError::TooLong)?;
    Ok((whole + fraction_of(fraction, unit), rest))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// `0.FRACTION` of `unit`, cut to whole nanoseconds.
fn fraction_of(fraction: &str, unit: u128) -> u128 {
    // An hour has fewer than 10^13 nanoseconds: later digits cannot count.
    let (value, scale) = fraction
        .bytes()
        .take(18)
        .fold((0, 1), |(value, scale), digit| (value * 10 + u128::from(digit - b'0'), scale * 10));
    value * unit / scale
}

fn unit_nanoseconds(unit: &str) -> Result<u128, DurationError> {
    Ok(match unit {
        "" => return Err(DurationError::NoUnit),
        "ns" => 1,
        // Go accepts both the micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3600 * 1_000_000_000,
        other => return Err(DurationError::Unit(other.to_owned())),
    })
}

/// Writes a duration as Go's `Duration.String` does: `24h0m0s`, `1m30s`, `1.5s`, `250ms`, `0s`.
pub(super) fn format(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let below_a_second = [(1_000_000, "ms"), (1_000, "\u{b5}s"), (1, "ns")];
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    if let Some((unit, name)) = below_a_second
        .into_iter()
        .find(|(unit, _)| nanoseconds < 1_000_000_000 && nanoseconds >= *unit)
    {
        return format!("{}{name}", decimal(nanoseconds, unit));
    }
    let (minutes, rest) = (nanoseconds / 60_000_000_000, nanoseconds % 60_000_000_000);
    let seconds = format!("{}s", decimal(rest, 1_000_000_000));
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

/// `value / unit` with as many decimals as it needs; `unit` is a power of ten.
fn decimal(value: u128, unit: u128) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let fraction = format!("{rest:0width$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_syntax_is_read() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("0s", 0),
            ("+5s", 5_000_000_000),
            ("30s", 30_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5m", 30_000_000_000),
            ("1.s", 1_000_000_000),
            ("250ms", 250_000_000),
            ("1us", 1_000),
            ("1\u{b5}s1\u{3bc}s", 2_000),
            ("0.3333333333333333333h", 1_199_999_999_999),
            ("1m1m", 120_000_000_000),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        use DurationError::*;
        for (text, error) in [
            ("", Syntax),
            ("+", Syntax),
            ("s", Syntax),
            (".s", Syntax),
            ("1s ", Unit("s ".to_owned())),
            ("1s.s", Syntax),
            ("30", NoUnit),
            ("1h30", NoUnit),
            ("1d", Unit("d".to_owned())),
            ("1S", Unit("S".to_owned())),
            ("-1s", Negative),
            ("9223372036854775808ns", TooLong),
            ("99999999999999999999999999999999999999999h", TooLong),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn written_as_go_writes() {
        for text in [
            "0s",
            "1ns",
            "1.5\u{b5}s",
            "250ms",
            "1.05s",
            "30s",
            "1m0s",
            "1m30.25s",
            "15m0s",
            "1h0m0s",
            "24h0m0s",
        ] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
    }
}
