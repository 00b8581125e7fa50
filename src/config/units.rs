//! Durations as "10s" and sizes as "64MiB" in the file, typed values in the program.

/// serde for `Duration` as `"1h 30m"`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes `"5s"`.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    /// Reads `"5s"`, `"1h 30m"`, `"14d"`.
    ///
    /// # Errors
    /// The text is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|error| D::Error::custom(format!("expected a duration like \"10s\" or \"1h 30m\", found {text:?}: {error}")))
    }
}

/// serde for a number of bytes as `"64MiB"`.
pub mod size {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const UNITS: [(&str, u64); 7] =
        [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000), ("B", 1)];

    /// Writes the largest binary unit that divides the size.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        let (name, unit) =
            UNITS.into_iter().find(|(name, unit)| (name.contains('i') || *unit == 1) && value.is_multiple_of(*unit)).unwrap_or(("B", 1));
        serializer.collect_str(&format_args!("{}{name}", value / unit))
    }

    /// Reads `"64MiB"`, `"1 MB"`, `"512B"`.
    ///
    /// # Errors
    /// The text is no size, or too large for 64 bits.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom(format!("expected a size like \"64MiB\", found {text:?}")))
    }

    fn parse(text: &str) -> Option<u64> {
        let (name, unit) = UNITS.into_iter().find(|(name, _)| text.ends_with(name))?;
        text.strip_suffix(name)?.trim().parse::<u64>().ok()?.checked_mul(unit)
    }
}
