//! A number of a vector in the usual form, one digit before the point and no exponent, without a loop or a branch
//! that depends on how long it is or which sign it has: the CPU then works on several numbers at once.
//!
//! Read digit by digit, or eight by eight, each number waits until the one before it is found to end, and a
//! branch that asks whether it does is mispredicted every third time: that took three times as long.

use crate::decode::digits::{self, WINDOW};

/// Digits after the point: f32 has nine or so. What has a point behind a digit and a comma at the window's end has no
/// more, and with the one before the point they come to less than 2^52.
const MOST_AFTER_POINT: usize = WINDOW - 3;
/// Powers of ten by which the digit before the point is moved.
const WHOLE_POWERS: [u64; MOST_AFTER_POINT + 1] = {
    let mut powers = [1; MOST_AFTER_POINT + 1];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = 10 * powers[n - 1];
        n += 1;
    }
    powers
};
/// The same as floats, all of them exact, and negative.
const SIGNED_POWERS: [[f64; MOST_AFTER_POINT + 1]; 2] = {
    let mut powers = [[1.0; MOST_AFTER_POINT + 1], [-1.0; MOST_AFTER_POINT + 1]];
    let mut n = 1;
    while n <= MOST_AFTER_POINT {
        powers[0][n] = 10.0 * powers[0][n - 1];
        powers[1][n] = 10.0 * powers[1][n - 1];
        n += 1;
    }
    powers
};

/// The number at `at` and its length with the comma behind it, where it is `-`, if anything, a digit, a point and a
/// few digits. `None` on anything else, also near the end of the payload.
#[inline(always)]
pub(super) fn before_comma(bytes: &[u8], at: usize) -> Option<(f64, usize)> {
    let window = bytes.get(at..)?.first_chunk::<WINDOW>()?;
    let first = usize::from(window[0] == b'-');
    // Behind the sign, the first byte that is no digit must be the point, the next one the comma.
    let others = digits::others(window) & !u32::from(window[0] == b'-');
    let comma = (others & others.wrapping_sub(1)).trailing_zeros() as usize;
    let point = others.trailing_zeros() as usize;
    let n = comma.wrapping_sub(point + 1);
    if point != first + 1 || window[point] != b'.' || n == 0 || window.get(comma) != Some(&b',') {
        return None;
    }
    let end = at + comma;
    let sixteen = bytes.get(end.checked_sub(16)?..end)?.first_chunk::<16>()?;
    let whole = u64::from(window[first] - b'0') * WHOLE_POWERS.get(n)? + digits::last(sixteen, n);
    // One exact integer and one rounding, as everywhere; the power has the sign.
    Some((digits::float(whole) / SIGNED_POWERS[first][n], comma + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = String> {
        prop_oneof![4 => "-?[0-9]\\.[0-9]{1,17}", 1 => "-?[0-9]{0,3}\\.?[0-9]{0,9}(e-?[0-9])?", 1 => "[-+.0-9e ]{0,12}"]
    }

    proptest! {
        #[test]
        fn what_is_read_is_the_nearest_float_and_nothing_else_is(number in number(), behind in prop::sample::select(vec![",", "]", " ,", "e5,"])) {
            let text = format!("{{\"embedding\":[{number}{behind}0.5,0.25],\"surface\":\"home page\"}}");
            let found = before_comma(text.as_bytes(), 14);
            let behind_it = number.len() + 1;
            let usual = number.strip_prefix('-').unwrap_or(&number).split_once('.').is_some_and(|(whole, digits)| {
                let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
                whole.len() == 1 && all_digits(whole) && (1..=MOST_AFTER_POINT).contains(&digits.len()) && all_digits(digits)
            });
            let expected = (usual && behind == "," && behind_it <= WINDOW).then(|| (number.parse::<f64>().unwrap().to_bits(), behind_it));
            prop_assert_eq!(found.map(|(value, length)| (value.to_bits(), length)), expected);
        }
    }
}
