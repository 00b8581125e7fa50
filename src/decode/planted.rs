//! Records with what readers of JSON are known to disagree about, each where it is most likely to be met.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// A kind: its name, whether some of its records are to be read, whether some are to be refused, and how one is drawn.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) is_read: bool,
    pub(super) is_refused: bool,
    pub(super) draw: fn(&mut ChaCha8Rng) -> Vec<u8>,
}

const fn kind(name: &'static str, is_read: bool, is_refused: bool, draw: fn(&mut ChaCha8Rng) -> Vec<u8>) -> Kind {
    Kind { name, is_read, is_refused, draw }
}

/// All that must be met.
pub(super) const KINDS: [Kind; 12] = [
    kind("duplicate key", true, true, |rng| {
        // Of what is read, in the same object or another, and of what is not.
        let twice = ["\"embedding\":[1],", "\"surface\":\"a\",", "\"user\":{\"id\":1,\"id\":2},", "\"other\":1,\"other\":2,"];
        around(twice[rng.random_range(0..4)], "0.5", rng)
    }),
    kind("escape in a key", true, true, |rng| {
        let escaped = ["\"\\u0065mbedding\":[1],", "\"\\u006fther\":1,", "\"a\\/b\":1,", "\"s\\u0075rface\":\"a\","];
        around(escaped[rng.random_range(0..4)], "0.5", rng)
    }),
    kind("1e400", false, true, |rng| around("", ["1e400", "-1e400", "1e39", "123456789e308"][rng.random_range(0..4)], rng)),
    kind("-0", true, false, |rng| around("", ["-0", "-0.0", "-0e5", "-0.0e-7"][rng.random_range(0..4)], rng)),
    kind("subnormal", true, false, |rng| {
        let drawn = f64::from_bits(rng.random_range(1..1 << 52)).to_string();
        let single = f32::from_bits(rng.random_range(1..1 << 23)).to_string();
        around("", &[drawn, single, "5e-324".into(), "2.4703282292062328e-324".into()][rng.random_range(0..4)], rng)
    }),
    kind("17 digits", true, false, |rng| {
        let value = format!("{:.16e}", rng.random_range(-2.0f64..2.0));
        around("", &value, rng)
    }),
    kind("NaN", false, true, |rng| around("", ["NaN", "nan", "Infinity", "-Infinity", "inf"][rng.random_range(0..5)], rng)),
    kind("BOM", false, true, |rng| [b"\xef\xbb\xbf".as_slice(), &around("", "0.5", rng)].concat()),
    kind("lone surrogate", false, true, |rng| {
        let text = ["\\ud800", "\\udc00", "\\ud800x", "\\ud800\\ud800", "\\uD83D\\u0041"][rng.random_range(0..5)];
        around(&format!("\"model_version\":\"{text}\","), "0.5", rng)
    }),
    kind("pair of surrogates", true, false, |rng| around("\"model_version\":\"\\ud83d\\ude00\",", "0.5", rng)),
    kind("trailing bytes", true, true, |rng| {
        let tail = [" \n\t", "}", "x", "\0", "{}", ",", "\u{feff}"][rng.random_range(0..7)];
        [&around("", "0.5", rng), tail.as_bytes()].concat()
    }),
    kind("base64", true, true, |rng| {
        let values: Vec<u8> = (0..rng.random_range(1..9)).flat_map(|_| rng.random_range(-3.0f32..3.0).to_le_bytes()).collect();
        let mut text = STANDARD.encode(values);
        match rng.random_range(0..5) {
            0 => text.truncate(rng.random_range(0..=text.len())),
            1 => text = text.trim_end_matches('=').to_owned(),
            2 => text.insert(rng.random_range(0..=text.len()), ['-', '_', ' ', '=', '\\'][rng.random_range(0..5)]),
            // The same text to who reads escapes.
            3 => text = text.replacen('A', "\\u0041", 1).replacen('/', "\\/", 1),
            _ => {}
        }
        format!("{{\"embedding\":\"{text}\",\"surface\":\"home\"}}").into_bytes()
    }),
];

/// A record with an entry before or after the rest, and a number in its vector.
fn around(entry: &str, number: &str, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let vector = if rng.random() { format!("[{number},0.25]") } else { format!("[1, {number}]") };
    let rest = format!("\"embedding\":{vector},\"surface\":\"home\"");
    let record = if rng.random() { format!("{{{entry}{rest}}}") } else { format!("{{{rest},{}}}", entry.trim_end_matches(',')) };
    record.replace(",}", "}").into_bytes()
}
