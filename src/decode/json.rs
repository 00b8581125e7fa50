//! JSON in one pass: a visitor that follows the layout's tree and fills the sink, without a tree of values.
//!
//! Strict as `serde_json` is; a configured key that comes twice is refused (which of the two counts
//! would depend on the reader). `NaN` and `Infinity`, which some writers emit although JSON has no
//! such thing, are named as what they are where a number is expected.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::decode::layout::{Node, Slot, slot_name};
use crate::decode::sink::Sink;
use crate::record::{Reject, RejectReason};

/// Reads one JSON object into the sink.
///
/// # Errors
/// The payload is not one JSON object, in UTF-8. Values of a wrong type are noted in the sink.
pub fn read(payload: &[u8], tree: &Node, sink: &mut Sink<'_>) -> Result<(), Reject> {
    let mut deserializer = serde_json::Deserializer::from_slice(payload);
    let mut seen = 0;
    let read = Object { node: tree, sink, seen: &mut seen }.deserialize(&mut deserializer);
    read.and_then(|()| deserializer.end()).map_err(|error| reject(&error, payload, sink))?;
    // What nobody wants is skipped without a look at its text; but a payload that is not UTF-8 is no JSON (RFC 8259, 8.1).
    match std::str::from_utf8(payload) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(Reject::new(RejectReason::MalformedJson, format!("expected UTF-8, found other bytes at {}", error.valid_up_to())))
        }
    }
}

/// An object some of whose keys are wanted.
struct Object<'s, 'a, 't> {
    node: &'t Node,
    sink: &'s mut Sink<'a>,
    /// One bit a node: keys that have been there.
    seen: &'s mut u64,
}

impl<'de> DeserializeSeed<'de> for Object<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(child) = map.next_key_seed(Key(self.node))? {
            let Some(child) = child else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let bit = 1 << child.number;
            if *self.seen & bit != 0 {
                return Err(A::Error::custom("a configured key comes twice"));
            }
            *self.seen |= bit;
            self.sink.current = child.slots.first().copied();
            if self.sink.current == Some(Slot::Embedding) {
                map.next_value_seed(Vector(self.sink))?;
            } else {
                map.next_value_seed(Value { node: child, sink: self.sink, seen: self.seen })?;
            }
            self.sink.current = None;
        }
        Ok(())
    }
}

/// A key, looked up among the wanted ones.
struct Key<'t>(&'t Node);

impl<'de, 't> DeserializeSeed<'de> for Key<'t> {
    type Value = Option<&'t Node>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'t> Visitor<'_> for Key<'t> {
    type Value = Option<&'t Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.children.iter().find(|(name, _)| name == key).map(|(_, node)| node))
    }
}

/// The vector: an array of numbers, or base64 text.
struct Vector<'s, 'a>(&'s mut Sink<'a>);

impl<'de> DeserializeSeed<'de> for Vector<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Vector<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers or base64")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let embedding = self.0.embedding();
        let found = loop {
            match seq.next_element_seed(Number)? {
                Some(Ok(value)) => embedding.push(value),
                Some(Err(found)) => break found,
                None => return Ok(()),
            }
        };
        let index = embedding.len();
        let detail = format!("{}: expected numbers, found {found} at value {index}", slot_name(self.0.settings(), Slot::Embedding));
        self.0.note(RejectReason::BadEmbedding, detail);
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.text(Slot::Embedding, text);
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.0.wrong_type(Slot::Embedding, "true or false");
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.0.wrong_type(Slot::Embedding, "a number");
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.0.wrong_type(Slot::Embedding, "a number");
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.0.wrong_type(Slot::Embedding, "a number");
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.wrong_type(Slot::Embedding, "an object");
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// One value of the vector: f32, or what was found instead. Numbers are read as f64 and rounded once
/// more, as every reader of JSON into f32 arrays does.
struct Number;

impl<'de> DeserializeSeed<'de> for Number {
    type Value = Result<f32, &'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "rounding to f32 is what is wanted; beyond it is Inf, which the batch refuses"
)]
impl<'de> Visitor<'de> for Number {
    type Value = Result<f32, &'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Ok(value as f32))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Ok(value as f32))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Ok(value as f32))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Err("text"))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Err("null"))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Err("true or false"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Err("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Err("an object"))
    }
}

/// Any other wanted value: text, a number, a list of items, or an object with wanted keys.
struct Value<'s, 'a, 't> {
    node: &'t Node,
    sink: &'s mut Sink<'a>,
    seen: &'s mut u64,
}

impl Value<'_, '_, '_> {
    fn each(self, mut fill: impl FnMut(&mut Sink<'_>, Slot)) {
        for slot in &self.node.slots {
            fill(self.sink, *slot);
        }
        // A scalar where an object was expected: what lies below is absent.
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.each(|sink, slot| sink.text(slot, text));
        Ok(())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.each(|sink, slot| sink.integer(slot, number.into()));
        Ok(())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.each(|sink, slot| sink.integer(slot, number.into()));
        Ok(())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.each(|sink, slot| sink.float(slot, number));
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.each(|sink, slot| sink.boolean(slot, value));
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if self.node.slots.as_slice() == [Slot::Items] {
            while seq.next_element_seed(Item(self.sink))?.is_some() {}
            return Ok(());
        }
        self.each(|sink, slot| sink.wrong_type(slot, "an array"));
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.node.slots.is_empty() {
            return Object { node: self.node, sink: self.sink, seen: self.seen }.visit_map(map);
        }
        self.each(|sink, slot| sink.wrong_type(slot, "an object"));
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// One recommended item: text or a whole number.
struct Item<'s, 'a>(&'s mut Sink<'a>);

impl<'de> DeserializeSeed<'de> for Item<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Item<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an item")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.item(text);
        Ok(())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.0.item(&number.to_string());
        Ok(())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.0.item(&number.to_string());
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.0.wrong_type(Slot::Items, "a number with a fraction");
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.0.wrong_type(Slot::Items, "true or false");
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.0.wrong_type(Slot::Items, "an array in it");
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.wrong_type(Slot::Items, "an object in it");
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// serde's error, with the reason of the slot it happened in where the words tell a number's fault.
fn reject(error: &serde_json::Error, payload: &[u8], sink: &Sink<'_>) -> Reject {
    let words = error.to_string();
    let no_number = words.starts_with("number out of range") || not_a_number_near(payload, error.line(), error.column());
    let reason = match sink.current {
        Some(Slot::Embedding) if no_number => RejectReason::NotFinite,
        Some(Slot::Timestamp) if no_number => RejectReason::BadTimestamp,
        _ => RejectReason::MalformedJson,
    };
    let detail = if reason == RejectReason::MalformedJson {
        words
    } else {
        format!("expected finite numbers, found NaN, Infinity or a number out of range: {words}")
    };
    Reject::new(reason, detail)
}

/// Whether one of the tokens that stand for no number lies where the reader stopped.
fn not_a_number_near(payload: &[u8], line: usize, column: usize) -> bool {
    let start = payload.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum::<usize>();
    // The reader stops at most three bytes into a token ("-I", "nu" of "null" against "nan").
    let from = (start + column).saturating_sub(4).min(payload.len());
    let near = &payload[from..payload.len().min(from + 16)];
    ["NaN", "Infinity", "nan", "inf", "Inf"].iter().any(|token| near.windows(token.len()).any(|bytes| bytes == token.as_bytes()))
}
