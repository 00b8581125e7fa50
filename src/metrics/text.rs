//! The text format of Prometheus, version 0.0.4: names, escaped labels, numbers.

/// Writes metrics of one name after the other, as the format wants them, and counts series.
#[derive(Debug, Default)]
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    pub(super) n_series: u64,
    name: &'static str,
}

impl Text {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Begins a gauge.
    pub(super) fn gauge(&mut self, name: &'static str, help: &str) {
        self.begin(name, "gauge", help);
    }

    /// Begins a counter.
    pub(super) fn counter(&mut self, name: &'static str, help: &str) {
        self.begin(name, "counter", help);
    }

    /// One series of the metric begun last; `labels` as made by [`labels`], or empty.
    pub(super) fn series(&mut self, labels: &str, value: f64) {
        self.bytes.extend_from_slice(self.name.as_bytes());
        self.bytes.extend_from_slice(labels.as_bytes());
        self.bytes.push(b' ');
        if value.is_finite() {
            self.bytes.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
        } else {
            self.bytes.extend_from_slice(if value.is_nan() {
                b"NaN"
            } else if value > 0.0 {
                b"+Inf"
            } else {
                b"-Inf"
            });
        }
        self.bytes.push(b'\n');
        self.n_series += 1;
    }

    fn begin(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        for part in ["# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n"] {
            self.bytes.extend_from_slice(part.as_bytes());
        }
    }
}

/// `{name="value",...}` with values escaped. Nothing is cut or replaced here: two values that differ
/// must stay two series.
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut out = String::from("{");
    for (idx, (name, value)) in pairs.iter().enumerate() {
        if idx > 0 {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    out.push('}');
    out
}

/// A text that is only read, never told apart by: control characters become spaces, at most 200 characters.
pub(super) fn readable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53, and a metric is a float")]
pub(super) fn count(n: u64) -> f64 {
    n as f64
}

#[expect(clippy::cast_precision_loss, reason = "exact for 285,000 years of milliseconds")]
pub(super) fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}
