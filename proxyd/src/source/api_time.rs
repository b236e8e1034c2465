//! Times in API objects.

/// An RFC 3339 time in nanoseconds since 1970.
pub(super) fn nanoseconds(text: &str) -> Option<i64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}
