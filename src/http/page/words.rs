//! Numbers, times and states as the pages write them.

use maud::{Markup, html};

use crate::drift::alert::utc_text;
use crate::drift::report::{AlertState, Direction, StreamState};
use crate::drift::stream::StreamId;

/// Word and colour of a stream's state.
pub(super) fn stream_state(state: StreamState) -> (&'static str, &'static str) {
    match state {
        StreamState::Ok => ("ok", "ok"),
        StreamState::Warn => ("warn", "warn"),
        StreamState::Alert => ("alert", "alert"),
        StreamState::Recovered => ("recovered", "recovered"),
        StreamState::NoVerdict => ("no verdict", "quiet"),
    }
}

/// Word and colour of an alert's state.
pub(super) fn alert_state(state: AlertState) -> (&'static str, &'static str) {
    match state {
        AlertState::Firing => ("firing", "alert"),
        AlertState::Recovered => ("recovered", "recovered"),
        AlertState::Accepted | AlertState::Ended => (state.kind(), "quiet"),
    }
}

/// A concept's name with a link to its card, and where the name comes from.
pub(super) fn concept_name(name: &str, stream: StreamId, verification: &str, model_version: &str) -> Markup {
    html! {
        a.name href=(concept_url(stream, model_version)) { (name) } br;
        span.quiet { (stream) " · " (verification) @if !model_version.is_empty() { " · " (model_version) } }
    }
}

/// Address of a concept's card.
pub(super) fn concept_url(stream: StreamId, model_version: &str) -> String {
    let model = if model_version.is_empty() { String::new() } else { format!("?model={}", in_query(model_version)) };
    format!("/concepts/{stream}{model}")
}

/// Text as the value of a query.
pub(super) fn in_query(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The direction, also for who does not see the arrow.
pub(super) fn arrow(direction: Direction) -> Markup {
    let (arrow, word) = match direction {
        Direction::Up => ("▲", "up"),
        Direction::Down => ("▼", "down"),
    };
    html! { span.arrow role="img" aria-label=(word) { (arrow) } " " }
}

/// A ratio with its interval.
pub(super) fn ratio_text(ratio: Option<f64>, low: Option<f64>, high: Option<f64>) -> Markup {
    html! { strong { "×" (ratio_number(ratio)) } span.quiet { " " (ratio_number(low)) "–" (ratio_number(high)) } }
}

/// A ratio in three digits.
pub(super) fn ratio_number(value: Option<f64>) -> String {
    value.map_or_else(|| "∞".into(), |value| if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") })
}

/// A share as per cent with three digits; anything above 1 (records per window) as it is.
pub(super) fn rate_text(rate: f64) -> String {
    let percent = rate * 100.0;
    match percent {
        _ if rate > 1.0 => format!("{rate:.2}"),
        _ if percent >= 10.0 => format!("{percent:.1} %"),
        _ if percent >= 1.0 => format!("{percent:.2} %"),
        _ => format!("{percent:.3} %"),
    }
}

/// `1998-01-03 00:00`.
pub(super) fn short_time(ms: i64) -> String {
    utc_text(ms).chars().take(16).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

/// A length of time, in the unit a person would use.
pub(super) fn length(ms: i64) -> String {
    match ms.max(0) / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// How long ago.
pub(super) fn ago(ms: i64) -> String {
    format!("{} ago", length(ms))
}

/// `53 475`, with thin spaces.
pub(super) fn grouped(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut text = String::from(if n < 0 { "-" } else { "" });
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// The same of what is never negative.
pub(super) fn grouped_u64(n: u64) -> String {
    grouped(i64::try_from(n).unwrap_or(i64::MAX))
}
