//! The usual JSON record, scanned by hand: three times as fast as a reader of any JSON.
//!
//! [`read`] fills the sink from an object of plain strings, numbers, lists and objects and says whether it
//! could. On anything else (an escape, a wrong type, a key twice, a syntax error) it says no, and
//! `decode::json` reads the payload again from its start: that reader is the rule and has the words for
//! rejects, this one only answers what both would answer alike. A property test holds it to that.
//!
//! Most of the cost is the digits of the vector. A number of at most 2^53 with a power of ten up to 22 is
//! one exact integer and one correctly rounded division, the same as `serde_json` computes. Most are
//! read by `decode::fraction`, which knows no other form.

use crate::decode::digits;
use crate::decode::fraction;
use crate::decode::layout::{Node, Slot};
use crate::decode::sink::Sink;

/// Objects and lists inside each other; deeper ones are left to the strict reader.
const MOST_DEPTH: usize = 16;
/// Digits whose value fits u64 whatever they are.
const MOST_DIGITS: usize = 19;
/// Above this an f64 cannot hold every integer.
const EXACT_INTEGERS: u64 = 1 << 53;
/// Powers of ten by which digits are moved.
const WHOLE_POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
/// Powers of ten that are exact in f64.
const POWERS: [f64; 23] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22];

/// Fills the sink and returns true, or returns false and leaves it half filled.
pub(super) fn read(payload: &[u8], tree: &Node, sink: &mut Sink<'_>) -> bool {
    let Ok(text) = std::str::from_utf8(payload) else { return false };
    let mut scanner = Scanner { text, bytes: payload, at: 0 };
    let read = scanner.object(tree, sink, &mut 0, 0).is_some();
    scanner.skip_space();
    read && scanner.at == payload.len() && !sink.is_faulty()
}

struct Scanner<'p> {
    text: &'p str,
    bytes: &'p [u8],
    at: usize,
}

/// A number as it is written.
#[derive(Clone, Copy)]
struct Number {
    negative: bool,
    whole: bool,
    digits: u64,
    value: f64,
}

impl<'p> Scanner<'p> {
    /// An object some of whose keys are wanted; `seen` has a bit for each key that has been there.
    fn object(&mut self, node: &Node, sink: &mut Sink<'_>, seen: &mut u64, depth: usize) -> Option<()> {
        if depth > MOST_DEPTH {
            return None;
        }
        self.each(b'{', b'}', |scanner| {
            let key = scanner.string()?;
            scanner.expect(b':')?;
            let Some((_, child)) = node.children.iter().find(|(name, _)| name == key) else { return scanner.skip(depth + 1) };
            let bit = 1 << child.number;
            if *seen & bit != 0 {
                return None;
            }
            *seen |= bit;
            match (scanner.peek()?, child.slots.as_slice()) {
                (b'[', [Slot::Embedding]) => scanner.vector(sink.embedding()),
                (b'[', [Slot::Items]) => scanner.items(sink),
                (b'{', []) => scanner.object(child, sink, seen, depth + 1),
                (b'"', slots) => {
                    let text = scanner.string()?;
                    slots.iter().for_each(|slot| sink.text(*slot, text));
                    Some(())
                }
                (b'n', _) => scanner.literal("null"),
                (b'-' | b'0'..=b'9', slots) => {
                    let number = scanner.number()?;
                    slots.iter().for_each(|slot| match number.integer() {
                        Some(integer) => sink.integer(*slot, integer),
                        None => sink.float(*slot, number.value),
                    });
                    Some(())
                }
                _ => None,
            }
        })
    }

    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what is wanted; beyond it is Inf, which the batch refuses")]
    fn vector(&mut self, into: &mut Vec<f32>) -> Option<()> {
        self.each(b'[', b']', |scanner| {
            scanner.fractions(into);
            into.push(scanner.number()?.value as f32);
            Some(())
        })
    }

    /// Appends the numbers of a vector that have the usual form, as long as there are any with a comma behind them. What
    /// it leaves is an entry like any other: the last of the vector, or one of another form.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "as for the vector")]
    fn fractions(&mut self, into: &mut Vec<f32>) {
        let Some((value, length)) = fraction::before_comma(self.bytes, self.at) else { return };
        into.push(value as f32);
        self.at += length;
        // Some writers put a space behind each comma. They are held to what they did first: so where the next number
        // begins does not wait for what lies there.
        let space = usize::from(self.bytes.get(self.at) == Some(&b' '));
        while space == 0 || self.bytes.get(self.at) == Some(&b' ') {
            let Some((value, length)) = fraction::before_comma(self.bytes, self.at + space) else { return };
            into.push(value as f32);
            self.at += space + length;
        }
    }

    fn items(&mut self, sink: &mut Sink<'_>) -> Option<()> {
        self.each(b'[', b']', |scanner| {
            if scanner.peek()? == b'"' {
                sink.item(scanner.string()?);
            } else {
                sink.item(&scanner.number()?.integer()?.to_string());
            }
            Some(())
        })
    }

    /// Passes over a value that nobody wants; it must be JSON all the same.
    fn skip(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            _ if depth > MOST_DEPTH => None,
            b'"' => self.string().map(drop),
            b'[' => self.each(b'[', b']', |scanner| scanner.skip(depth + 1)),
            b'{' => self.each(b'{', b'}', |scanner| {
                scanner.string()?;
                scanner.expect(b':')?;
                scanner.skip(depth + 1)
            }),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            _ => self.number().map(drop),
        }
    }

    /// `open`, entries with commas between them, `close`.
    #[inline]
    fn each(&mut self, open: u8, close: u8, mut entry: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.expect(open)?;
        if self.peek()? == close {
            self.at += 1;
            return Some(());
        }
        loop {
            entry(self)?;
            match self.peek()? {
                b',' => self.at += 1,
                byte if byte == close => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// A string without escapes.
    fn string(&mut self) -> Option<&'p str> {
        self.expect(b'"')?;
        let start = self.at;
        let length = self.bytes[start..].iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        self.at = start + length;
        self.expect_now(b'"')?;
        self.text.get(start..start + length)
    }

    fn literal(&mut self, word: &str) -> Option<()> {
        self.at += self.bytes[self.at..].starts_with(word.as_bytes()).then_some(word.len())?;
        Some(())
    }

    #[inline]
    fn number(&mut self) -> Option<Number> {
        self.skip_space();
        let negative = self.expect_now(b'-').is_some();
        let first = self.at;
        let mut digits = 0;
        self.digits(&mut digits);
        let n_before = self.at - first;
        if n_before == 0 || (n_before > 1 && self.bytes[first] == b'0') {
            return None;
        }
        let mut n_digits = n_before;
        let mut exponent = 0i32;
        let mut whole = true;
        if self.expect_now(b'.').is_some() {
            let point = self.at;
            self.digits(&mut digits);
            let n_after = self.at - point;
            if n_after == 0 {
                return None;
            }
            n_digits += n_after;
            exponent = -i32::try_from(n_after).ok()?;
            whole = false;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            exponent += self.exponent()?;
            whole = false;
        }
        let exact = n_digits <= MOST_DIGITS && digits <= EXACT_INTEGERS;
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53, which was checked")]
        let value = match POWERS.get(exponent.unsigned_abs() as usize) {
            Some(power) if exact && exponent < 0 => digits as f64 / power,
            Some(power) if exact => digits as f64 * power,
            // Long integers are rounded once, from all their digits, by the strict reader.
            _ if whole => return None,
            _ => self.text.get(first..self.at)?.parse().ok()?,
        };
        if !f64::is_finite(value) {
            return None;
        }
        Some(Number { negative, whole, digits, value: if negative { -value } else { value } })
    }

    fn exponent(&mut self) -> Option<i32> {
        self.at += 1;
        let negative = self.expect_now(b'-').is_some();
        if !negative {
            self.expect_now(b'+');
        }
        let first = self.at;
        let mut digits = 0;
        self.digits(&mut digits);
        if !(1..=4).contains(&(self.at - first)) {
            return None;
        }
        let exponent = i32::try_from(digits).ok()?;
        Some(if negative { -exponent } else { exponent })
    }

    /// Appends decimal digits to `value`, which wraps beyond [`MOST_DIGITS`] of them.
    #[inline]
    fn digits(&mut self, value: &mut u64) {
        // Up to eight at once, however many follow: a loop over single digits ends where the CPU does not expect it.
        while let Some(eight) = self.bytes[self.at..].first_chunk::<8>() {
            let (n, digits) = digits::leading(*eight);
            *value = value.wrapping_mul(WHOLE_POWERS[n]).wrapping_add(digits);
            self.at += n;
            if n < 8 {
                return;
            }
        }
        self.digits_at_the_end(value);
    }

    /// The same within the last bytes of the payload, one by one.
    #[cold]
    fn digits_at_the_end(&mut self, value: &mut u64) {
        while let Some(digit) = self.bytes.get(self.at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
            *value = value.wrapping_mul(10).wrapping_add(digit.into());
            self.at += 1;
        }
    }

    /// The next byte that is no white space; not passed.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn skip_space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        self.skip_space();
        self.expect_now(byte)
    }

    #[inline]
    fn expect_now(&mut self, byte: u8) -> Option<()> {
        let found = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found.then_some(())
    }
}

impl Number {
    /// The number as the strict reader takes it for a whole one. `-0` is a float to it.
    fn integer(self) -> Option<i128> {
        (self.whole && !(self.negative && self.digits == 0)).then(|| {
            let value = i128::from(self.digits);
            if self.negative { -value } else { value }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::settings::RecordSettings;
    use crate::decode::entity::EntityHasher;
    use crate::decode::json;
    use crate::decode::layout::Layout;
    use crate::record::{RawMessage, Record, Reject, TopicPartition};

    /// Reads with one reader; the record as text, because NaN is not equal to itself.
    fn read_with(payload: &[u8], reader: impl Fn(&[u8], &Node, &mut Sink<'_>) -> Result<(), Reject>) -> Result<String, Reject> {
        let settings = RecordSettings { entity: "user.id".into(), ..RecordSettings::default() };
        let layout = Layout::new(&settings, &["surface".into(), "user.country".into()]).unwrap();
        let (hasher, mut bytes, mut record) = (EntityHasher::new(&[7; 16]), Vec::new(), Record::default());
        record.clear(2);
        let mut sink = Sink::new(&mut record, &hasher, &settings, &mut bytes);
        reader(payload, layout.tree(), &mut sink)?;
        let partition = TopicPartition { topic: "t".into(), partition: 0 };
        let message =
            RawMessage { partition: &partition, offset: 0, timestamp_ms: Some(1), key: None, payload: Some(payload), headers: &[] };
        sink.finish(&message)?;
        Ok(format!("{record:?}"))
    }

    fn strict(payload: &[u8]) -> Result<String, Reject> {
        read_with(payload, json::read)
    }

    /// `None` where the quick reader leaves the payload to the strict one.
    fn quick(payload: &[u8]) -> Option<Result<String, Reject>> {
        let declined = std::cell::Cell::new(false);
        let read = read_with(payload, |payload, tree, sink| {
            declined.set(!read(payload, tree, sink));
            Ok(())
        });
        (!declined.get()).then_some(read)
    }

    fn number() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => any::<f32>().prop_filter("JSON has no others", |v| v.is_finite()).prop_map(|v| v.to_string()),
            4 => (-3.0f32..3.0).prop_map(|v| v.to_string()),
            2 => (-3.0f32..3.0).prop_map(|v| format!("{v:e}")),
            1 => (-1e6f64..1e6).prop_map(|v| format!("{v:.7}")),
            1 => any::<i32>().prop_map(|v| v.to_string()),
            1 => prop::sample::select(vec!["0", "-0", "-0.0", "1E+2", "01", "1.", ".5", "-", "1e", "1e400", "9007199254740993", "1e-30", "+1", "NaN"])
                .prop_map(str::to_owned),
        ]
    }

    fn payload() -> impl Strategy<Value = String> {
        let vector = prop::collection::vec(number(), 0..12).prop_map(|numbers| format!("[{}]", numbers.join(", ")));
        let value = prop_oneof![
            3 => vector, 2 => number(), 2 => "\"[a-z0-9é\\\\n]{0,9}\"",
            1 => prop::sample::select(vec!["null", "true", "false", "{}", "[]", "[[1],{\"a\":[2]}]", "[1,2,]", "{\"id\":7,\"country\":\"DE\"}", "[\"a\",5]"])
                .prop_map(str::to_owned),
        ];
        let key = prop::sample::select(vec!["embedding", "user", "surface", "timestamp", "items", "model_version", "other", "id"]);
        let space = prop::sample::select(vec!["", "", " ", "\n\t"]);
        prop::collection::vec((key, value, space), 0..7).prop_map(|entries| {
            let entries: Vec<String> =
                entries.into_iter().map(|(key, value, space)| format!("{space}\"{key}\"{space}:{space}{value}{space}")).collect();
            format!("{{{}}}", entries.join(","))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]
        #[test]
        fn what_the_quick_reader_answers_the_strict_one_answers_too(payload in payload(), cut in 0usize..400, flip in any::<u8>()) {
            let mut bytes = payload.into_bytes();
            if let Some(quick) = quick(&bytes) {
                prop_assert_eq!(quick, strict(&bytes));
            }
            // The same after damage to one byte.
            if let Some(byte) = bytes.get_mut(cut) {
                *byte = flip;
            }
            if let Some(quick) = quick(&bytes) {
                prop_assert_eq!(quick, strict(&bytes));
            }
        }

        #[test]
        fn ordinary_records_are_read_quickly_and_every_float_is_the_nearest(values in prop::collection::vec(-3.0f32..3.0, 1..80), user in any::<u32>()) {
            let payload = serde_json::json!({"embedding": values, "surface": "home", "user": {"id": user, "country": "DE"}, "x": [1, null]});
            let got = quick(payload.to_string().as_bytes()).unwrap().unwrap();
            prop_assert!(got.contains(&format!("embedding: {values:?}")), "{}", got);
            // As a Python program writes f64: 17 digits, a space behind each comma.
            let wide: Vec<String> = values.iter().map(|value| (f64::from(*value) + 1e-12).to_string()).collect();
            let got = quick(format!("{{\"embedding\": [{}]}}", wide.join(", ")).as_bytes()).unwrap().unwrap();
            #[expect(clippy::cast_possible_truncation, reason = "the nearest float is what is asked for")]
            let nearest: Vec<f32> = wide.iter().map(|text| text.parse::<f64>().unwrap() as f32).collect();
            prop_assert!(got.contains(&format!("embedding: {nearest:?}")), "{}", got);
        }
    }
}
