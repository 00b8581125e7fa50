//! Event times: numbers in s or ms, told apart by magnitude, and RFC 3339.
//!
//! Below 1e11 a number counts seconds (1e11 s is the year 5138), from there on milliseconds
//! (1e11 ms is March 1973). From 1e14 on it would be micro- or nanoseconds and is refused: read as
//! milliseconds it would lie after the year 5138.

use std::str::FromStr;

/// First number read as milliseconds.
const FIRST_MS: f64 = 1e11;
/// First number that can be neither.
const FIRST_US: f64 = 1e14;

/// Reads a number of seconds or milliseconds since 1970 UTC into ms, rounded to the nearest.
///
/// # Errors
/// Negative, not finite, or so large that it must be micro- or nanoseconds.
pub fn from_number(number: f64) -> Result<i64, String> {
    if !(0.0..FIRST_US).contains(&number) {
        return Err(format!("expected seconds or milliseconds since 1970, found {number}"));
    }
    let ms = if number < FIRST_MS { number * 1000.0 } else { number };
    #[expect(clippy::cast_possible_truncation, reason = "0 <= ms < 1e14")]
    Ok(ms.round() as i64)
}

/// Reads digits as a number, everything else as RFC 3339 with its offset.
///
/// # Errors
/// Neither.
pub fn from_text(text: &str) -> Result<i64, String> {
    let text = text.trim();
    let looks_like_a_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if looks_like_a_number {
        return match text.parse::<f64>() {
            Ok(number) => from_number(number),
            Err(_) => Err(format!("expected a number, found {:?}", shorten(text))),
        };
    }
    jiff::Timestamp::from_str(text)
        .map(jiff::Timestamp::as_millisecond)
        .map_err(|_| format!("expected RFC 3339 with an offset like \"2026-01-31T12:00:00Z\", found {:?}", shorten(text)))
        .and_then(|ms| if ms < 0 { Err(format!("expected a time since 1970, found {:?}", shorten(text))) } else { Ok(ms) })
}

/// Enough of a foreign text to recognise it by.
pub(super) fn shorten(text: &str) -> &str {
    text.char_indices().nth(40).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_milliseconds_are_told_apart_by_magnitude() {
        assert_eq!(from_number(874_724_727.0), Ok(874_724_727_000));
        assert_eq!(from_number(1_790_000_000_123.0), Ok(1_790_000_000_123));
        assert_eq!(from_number(1_790_000_000.123), Ok(1_790_000_000_123));
        assert_eq!(from_number(99_999_999_999.0), Ok(99_999_999_999_000));
        assert_eq!(from_number(100_000_000_000.0), Ok(100_000_000_000));
        assert_eq!(from_number(0.0), Ok(0));
    }

    #[test]
    fn microseconds_negatives_and_nan_are_refused() {
        for bad in [1.79e15, 1.79e18, -1.0, f64::NAN, f64::INFINITY] {
            assert!(from_number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn text_is_digits_or_rfc_3339() {
        assert_eq!(from_text("1790000000123"), Ok(1_790_000_000_123));
        assert_eq!(from_text(" 1970-01-01T00:00:01.5Z"), Ok(1_500));
        assert_eq!(from_text("1970-01-01T02:00:00+02:00"), Ok(0));
        for bad in ["", "yesterday", "2026-01-31T12:00:00", "1.2.3", "1969-12-31T00:00:00Z", "٣"] {
            assert!(from_text(bad).is_err(), "{bad}");
        }
    }
}
