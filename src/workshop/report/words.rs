//! Verdicts, ratios and times in the words of a report.

use crate::drift::alert::utc_text;
use crate::drift::closed::ALL;

/// A verdict's name as a sentence about why nothing was said.
#[must_use]
pub fn verdict_words(verdict: &str) -> &'static str {
    match verdict {
        "warmup" => "the reference was still being gathered",
        "insufficient_reference" => "there was no reference that covers it",
        "no_data" => "no records came",
        "volume" => "the volume was outside a tenth to ten times the expected",
        "session_mix" => "session lengths were too far from the reference's",
        "calendar" => "a day the calendar lists",
        "contract_broken" => "the SAE did not fit its input",
        "incomplete" => "the counts could not be trusted",
        "entities_split" => "the topic was not keyed by the entity",
        "no_window" => "no window exists: no records came, or the monitor did not run",
        "deleted" => "the windows were judged; what was counted was deleted, as the record tells",
        "begun_before" => "the window began before this span and is told by the report before",
        _ => "no verdict",
    }
}

/// `the whole stream`, or the segment's own name.
#[must_use]
pub fn segment_words(segment: &str) -> &str {
    if segment == ALL { "the whole stream" } else { segment }
}

/// `2026-03-02 14:00`.
#[must_use]
pub fn minute(ms: i64) -> String {
    utc_text(ms).chars().take(16).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

/// `+106 %`, `−54 %`; `from nothing` and `to nothing` at the ends.
#[must_use]
pub fn change(ratio: Option<f64>) -> String {
    match ratio {
        None => "from nothing".to_owned(),
        Some(ratio) if ratio <= 0.0 => "to nothing".to_owned(),
        Some(ratio) if ratio >= 10.0 => format!("×{ratio:.0}"),
        Some(ratio) if ratio >= 1.0 => format!("+{:.0} %", (ratio - 1.0) * 100.0),
        Some(ratio) => format!("−{:.0} %", (1.0 - ratio) * 100.0),
    }
}

/// A ratio with the digits that carry meaning; `∞` where there is none.
#[must_use]
pub fn ratio(value: Option<f64>) -> String {
    match value {
        None => "∞".to_owned(),
        Some(value) if value.abs() >= 1e6 => "∞".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// A share as per cent.
#[must_use]
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent >= 10.0 => format!("{percent:.0} %"),
        percent if percent >= 1.0 => format!("{percent:.1} %"),
        percent if percent <= 0.0 => "0 %".to_owned(),
        percent if percent >= 0.01 => format!("{percent:.2} %"),
        _ => "< 0.01 %".to_owned(),
    }
}

/// `53 475`, with thin spaces that do not break.
#[must_use]
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// `one alert`, `3 alerts`.
#[must_use]
pub fn counted(n: u64, one: &str, many: &str) -> String {
    if n == 1 { format!("one {one}") } else { format!("{} {many}", grouped(n)) }
}

/// A length of time: `36 h`, `14 d`.
#[must_use]
pub fn length(ms: i64) -> String {
    let hours = ms / 3_600_000;
    match hours {
        0 => format!("{} min", ms / 60_000),
        1..72 => format!("{hours} h"),
        _ => format!("{} d", hours / 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_carry_the_digits_that_mean_something() {
        assert_eq!(
            [change(Some(2.06)), change(Some(0.46)), change(None), change(Some(0.0))],
            ["+106 %", "−54 %", "from nothing", "to nothing"]
        );
        assert_eq!([percent(0.5), percent(0.012), percent(0.0003), percent(0.0)], ["50 %", "1.2 %", "0.03 %", "0 %"]);
        assert_eq!(
            [grouped(1_234_567), counted(1, "alert", "alerts"), counted(0, "alert", "alerts")],
            ["1\u{202f}234\u{202f}567", "one alert", "0 alerts"]
        );
        assert_eq!([length(7_200_000), length(14 * 86_400_000), length(1_800_000)], ["2 h", "14 d", "30 min"]);
    }
}
