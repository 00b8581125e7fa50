//! Vectors of numbers as one base64 text: the same bits after a round trip, at a third of the size
//! of decimal JSON. Detector state must continue bit for bit, and serde_json's default reading of
//! decimals may be off by one unit in the last place.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Writes little-endian f64 as base64.
///
/// # Errors
/// The serializer's own.
#[expect(clippy::ptr_arg, reason = "serde's signature for a Vec field")]
pub fn serialize<S: Serializer>(values: &Vec<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    serializer.serialize_str(&STANDARD.encode(bytes))
}

/// Reads what [`serialize`] wrote.
///
/// # Errors
/// The text is no base64, or its length is no multiple of 8 bytes.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = STANDARD.decode(&text).map_err(|error| D::Error::custom(format!("expected base64 of numbers: {error}")))?;
    let (values, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(D::Error::custom(format!("expected 8 bytes a number, found {} left over", rest.len())));
    }
    Ok(values.iter().map(|&chunk| f64::from_le_bytes(chunk)).collect())
}

/// The same for a single number.
pub mod one {
    use serde::{Deserializer, Serializer, de::Error};

    /// Writes one number as base64.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        super::serialize(&vec![*value], serializer)
    }

    /// Reads what [`serialize`] wrote.
    ///
    /// # Errors
    /// The text is no base64 of one number.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        match super::deserialize(deserializer)?.as_slice() {
            [value] => Ok(*value),
            values => Err(D::Error::custom(format!("expected one number, found {}", values.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Holder(#[serde(with = "super")] Vec<f64>);

    #[test]
    fn every_bit_survives() {
        let values = vec![0.1 + 0.2, -0.0, f64::NEG_INFINITY, 5e-324, 1.0 / 3.0];
        let text = serde_json::to_string(&Holder(values.clone())).unwrap();
        let back: Holder = serde_json::from_str(&text).unwrap();
        assert_eq!(values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), back.0.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        assert!(serde_json::from_str::<Holder>("\"AAAA\"").is_err());
    }
}
