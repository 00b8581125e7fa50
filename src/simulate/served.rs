//! A recommendation as the world serves it, and as it stands on the topic.

use std::io::Write;

/// One served recommendation.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// The user, also the message's key.
    pub user: u32,
    /// `home`, `search` or `mail`.
    pub surface: &'static str,
    /// When, ms since 1970 UTC.
    pub time_ms: i64,
    /// Concepts in the embedding, ascending: what the SAE must find.
    pub concepts: Vec<usize>,
    /// The embedding, `[d_in]`.
    pub embedding: Vec<f32>,
    /// Recommended items, by number.
    pub items: Vec<usize>,
}

impl Served {
    /// Key of the message: the topic is keyed by the user.
    #[must_use]
    pub fn key(&self) -> String {
        format!("user-{}", self.user)
    }

    /// The payload, as any recommender would write it.
    ///
    /// # Errors
    /// None when writing to a buffer.
    pub fn write_json(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        out.clear();
        out.extend_from_slice(b"{\"embedding\":[");
        for (position, value) in self.embedding.iter().enumerate() {
            if position > 0 {
                out.push(b',');
            }
            // A thousandth is far below the world's noise, and keeps more hours in the in-process broker.
            write!(out, "{value:.3}")?;
        }
        write!(out, "],\"entity\":\"user-{}\",\"timestamp\":{},\"surface\":\"{}\",\"items\":[", self.user, self.time_ms, self.surface)?;
        for (position, item) in self.items.iter().enumerate() {
            write!(out, "{}\"i{item}\"", if position > 0 { "," } else { "" })?;
        }
        out.extend_from_slice(b"]}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_json() {
        let served = Served { user: 7, surface: "mail", time_ms: 5, concepts: vec![1], embedding: vec![0.5, -1.25], items: vec![3, 4] };
        let mut out = Vec::new();
        served.write_json(&mut out).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let expected = serde_json::json!(
            {"embedding": [0.5, -1.25], "entity": "user-7", "timestamp": 5, "surface": "mail", "items": ["i3", "i4"]}
        );
        assert_eq!(json, expected);
    }
}
