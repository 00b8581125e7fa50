//! A vector as little-endian bytes: f32, f16 or bf16.

use half::{bf16, f16};

use crate::config::settings::Dtype;
use crate::record::{Reject, RejectReason};

/// Appends the payload's values to `embedding`.
///
/// # Errors
/// The length is no whole number of values.
pub fn read(payload: &[u8], dtype: Dtype, embedding: &mut Vec<f32>) -> Result<(), Reject> {
    let (fours, rest_of_fours) = payload.as_chunks::<4>();
    let (twos, rest_of_twos) = payload.as_chunks::<2>();
    let (size, rest) = if dtype == Dtype::F32 { (4, rest_of_fours) } else { (2, rest_of_twos) };
    if !rest.is_empty() {
        let detail = format!("expected a whole number of {size}-byte values, found {} bytes", payload.len());
        return Err(Reject::new(RejectReason::BadLength, detail));
    }
    match dtype {
        Dtype::F32 => embedding.extend(fours.iter().map(|bytes| f32::from_le_bytes(*bytes))),
        Dtype::F16 => embedding.extend(twos.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32())),
        Dtype::Bf16 => embedding.extend(twos.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_and_bfloat_reads_as_its_own_value() {
        let payload: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (dtype, value) in [
            (Dtype::F16, (|bits| f16::from_bits(bits).to_f64()) as fn(u16) -> f64),
            (Dtype::Bf16, |bits| f64::from(f32::from_bits(u32::from(bits) << 16))),
        ] {
            let mut embedding = Vec::new();
            read(&payload, dtype, &mut embedding).unwrap();
            for bits in 0..=u16::MAX {
                let (found, expected) = (f64::from(embedding[usize::from(bits)]), value(bits));
                assert!(found == expected || (found.is_nan() && expected.is_nan()), "{dtype:?} {bits:#x}: {found} {expected}");
            }
        }
    }

    #[test]
    fn a_length_that_is_no_multiple_is_refused() {
        for (dtype, length) in [(Dtype::F32, 5), (Dtype::F32, 1), (Dtype::F16, 3), (Dtype::Bf16, 1)] {
            let reject = read(&vec![0; length], dtype, &mut Vec::new()).unwrap_err();
            assert_eq!(reject.reason, RejectReason::BadLength);
        }
    }
}
