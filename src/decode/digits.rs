//! Digits, many at once: where they end, and what they come to.
//!
//! A loop over single digits ends where the CPU does not expect it. So eight bytes are one word, and of
//! sixteen all that are no digits are found together: by SSE2, which every x86-64 has, or by words.

#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calls code for SSE2, which every x86-64 has"))]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_mm_add_epi8, _mm_cmplt_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};

/// Bytes that are looked at together: what most numbers of an f32 vector have with the comma behind them.
pub(super) const WINDOW: usize = 16;

/// One bit for each byte that is no ASCII digit, the first the lowest.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn others(bytes: &[u8; WINDOW]) -> u32 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { others_sse2(bytes) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn others_sse2(bytes: &[u8; WINDOW]) -> u32 {
    let [low, high] = words(bytes).map(u64::cast_signed);
    // Moved so that the digits are the ten lowest numbers with a sign.
    let moved = _mm_add_epi8(_mm_set_epi64x(high, low), _mm_set1_epi8(i8::MIN.wrapping_sub(b'0'.cast_signed())));
    _mm_movemask_epi8(_mm_cmplt_epi8(_mm_set1_epi8(i8::MIN + 9), moved)).cast_unsigned()
}

/// The same for any CPU.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn others(bytes: &[u8; WINDOW]) -> u32 {
    others_in_words(bytes)
}

/// The rule of the other: a word's high bits are gathered in its highest byte by one multiplication.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn others_in_words(bytes: &[u8; WINDOW]) -> u32 {
    let gathered = words(bytes).map(|word| ((high_bits(word) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56).to_le_bytes()[0]);
    u16::from_le_bytes(gathered).into()
}

#[inline(always)]
fn words(bytes: &[u8; WINDOW]) -> [u64; WINDOW / 8] {
    let mut words = [0; WINDOW / 8];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// How many of eight bytes are ASCII digits before the first that is none, and their value.
#[inline(always)]
pub(super) fn leading(bytes: [u8; 8]) -> (usize, u64) {
    let word = u64::from_le_bytes(bytes);
    let n = first_high_bits(word).trailing_zeros() / 8;
    // The digits are shifted to the word's end, where zeros before them change nothing.
    let ones = (word ^ ZEROS).checked_shl(64 - 8 * n).unwrap_or(0);
    (n as usize, joined(ones))
}

/// The value of the last `n` of sixteen bytes, all of which are digits; `n` is at most 16.
#[inline(always)]
pub(super) fn last(bytes: &[u8; 16], n: usize) -> u64 {
    let [mut high, mut low] = [0; 2];
    for (word, (bytes, kept)) in [&mut high, &mut low].into_iter().zip(bytes.as_chunks().0.iter().zip(KEPT[n])) {
        *word = joined((u64::from_le_bytes(*bytes) ^ ZEROS) & kept);
    }
    high * 100_000_000 + low
}

/// Of two words what the last 0 to 16 of their bytes keep.
const KEPT: [[u64; 2]; 17] = {
    let mut kept = [[u64::MAX; 2]; 17];
    let mut n = 0;
    while n < 16 {
        kept[n] = if n < 8 {
            [0, if n == 0 { 0 } else { u64::MAX << (64 - 8 * n) }]
        } else {
            [if n == 8 { 0 } else { u64::MAX << (128 - 8 * n) }, u64::MAX]
        };
        n += 1;
    }
    kept
};

/// A whole number below 2^52 as a float: put behind the leading bit of 2^52, which is then taken away. The CPU's own
/// conversion would wait for whatever its register held before, here the number before.
#[inline(always)]
pub(super) fn float(whole: u64) -> f64 {
    const LEADING: u64 = 0x4330_0000_0000_0000;
    f64::from_bits(LEADING | whole) - f64::from_bits(LEADING)
}

/// Eight zeros as text.
const ZEROS: u64 = 0x3030_3030_3030_3030;

/// The value of eight digits 0 to 9, the first in the lowest byte: pairs, fours and eights are joined by one
/// multiplication each.
#[inline(always)]
fn joined(ones: u64) -> u64 {
    let pairs = (ones.wrapping_mul(10).wrapping_add(ones >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100).wrapping_add(pairs >> 16)) & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff
}

/// The high bits of the bytes of a word that are no digits, right up to the first such byte. Taken from `0`, a digit
/// is at most 9; adding 0x76 to more than that sets the byte's high bit, and a carry out of a byte only reaches bytes
/// behind it.
#[inline(always)]
fn first_high_bits(word: u64) -> u64 {
    let ones = word ^ ZEROS;
    (ones.wrapping_add(0x7676_7676_7676_7676) | ones) & 0x8080_8080_8080_8080
}

/// The same, right for every byte: no carry leaves seven bits.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn high_bits(word: u64) -> u64 {
    let ones = word ^ ZEROS;
    (((ones & 0x7f7f_7f7f_7f7f_7f7f) + 0x7676_7676_7676_7676) | ones) & 0x8080_8080_8080_8080
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_no_digit_is_found_in_every_place(bytes in prop::array::uniform16(prop_oneof![any::<u8>(), b'0'..=b'9', b'-'..=b':'])) {
            let expected = bytes.iter().rev().fold(0u32, |bits, byte| (bits << 1) | u32::from(!byte.is_ascii_digit()));
            prop_assert_eq!(others(&bytes), expected);
            prop_assert_eq!(others_in_words(&bytes), expected);
        }

        #[test]
        fn digits_come_to_what_they_say(text in "[0-9]{16}", n in 1usize..=16, then in any::<u8>()) {
            let bytes = *text.as_bytes().first_chunk::<16>().unwrap();
            prop_assert_eq!(last(&bytes, n), text[16 - n..].parse::<u64>().unwrap());
            prop_assert_eq!(float(last(&bytes, n.min(15))), text[16 - n.min(15)..].parse::<f64>().unwrap());
            let mut first = *text.as_bytes().first_chunk::<8>().unwrap();
            let place = n % 8;
            if !then.is_ascii_digit() {
                first[place] = then;
                prop_assert_eq!(leading(first), (place, text[..place].parse().unwrap_or(0)));
            } else {
                prop_assert_eq!(leading(first), (8, text[..8].parse().unwrap()));
            }
        }
    }
}
