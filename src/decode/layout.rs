//! Where a record's parts lie: the configured places, as a tree of JSON keys and a list of headers.

use crate::config::settings::{RecordFormat, RecordSettings};
use crate::record::RawMessage;

/// A part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The vector.
    Embedding,
    /// User or session.
    Entity,
    /// Event time.
    Timestamp,
    /// Recommender's version.
    ModelVersion,
    /// Recommended items.
    Items,
    /// The segment field of this number.
    Segment(usize),
}

/// The configuration's places cannot be used together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {place:?}: {message}")]
pub struct DecodeSetupError {
    /// Key of the configuration.
    pub key: String,
    /// Its value.
    pub place: String,
    /// What was expected.
    pub message: String,
}

/// A place outside the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outside {
    /// The last header of this name.
    Header(String),
    /// The message's key.
    Key,
}

impl Outside {
    /// The bytes there; `None` when absent or null.
    pub(super) fn find<'a>(&self, message: &RawMessage<'a>) -> Option<&'a [u8]> {
        match self {
            Self::Key => message.key,
            Self::Header(name) => message.headers.iter().rev().find(|(header, _)| header == name).and_then(|(_, value)| *value),
        }
    }
}

/// A JSON key that leads to slots, or to further keys.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Number of the node, for seeing a key twice.
    pub(super) number: u32,
    /// What the value here fills; empty where keys go on.
    pub(super) slots: Vec<Slot>,
    /// Keys below.
    pub(super) children: Vec<(String, Node)>,
}

/// All places of a configuration.
#[derive(Clone, Debug)]
pub struct Layout {
    tree: Node,
    outside: Vec<(Vec<Slot>, Outside)>,
    n_fields: usize,
}

/// Nodes of the tree are bits of a word when a record is read.
const MOST_NODES: u32 = 64;

impl Layout {
    /// Reads the places of `[record]` and `[segments] fields`.
    ///
    /// # Errors
    /// A place is empty where one is needed, leads through another, or is used for two things that
    /// cannot share a value.
    pub fn new(settings: &RecordSettings, segment_fields: &[String]) -> Result<Self, DecodeSetupError> {
        let mut layout = Self { tree: Node::default(), outside: Vec::new(), n_fields: segment_fields.len() };
        let mut nodes = 1;
        let mut places = vec![
            ("record.entity", Slot::Entity, &settings.entity),
            ("record.timestamp", Slot::Timestamp, &settings.timestamp),
            ("record.model_version", Slot::ModelVersion, &settings.model_version),
            ("record.items", Slot::Items, &settings.items),
        ];
        if settings.format == RecordFormat::Json {
            places.insert(0, ("record.embedding", Slot::Embedding, &settings.embedding));
        }
        places.extend(segment_fields.iter().enumerate().map(|(number, place)| ("segments.fields", Slot::Segment(number), place)));
        for (key, slot, place) in places {
            let refused = |message: &str| DecodeSetupError { key: key.into(), place: place.clone(), message: message.into() };
            if place.is_empty() {
                match slot {
                    Slot::Embedding | Slot::Segment(_) => return Err(refused("expected a place, found nothing")),
                    _ => continue,
                }
            }
            let outside = match (place.strip_prefix("header:"), place.as_str(), settings.format) {
                (Some(""), ..) => return Err(refused("expected the header's name after \"header:\"")),
                (Some(name), ..) => Some(Outside::Header(name.to_owned())),
                (None, "key", _) => Some(Outside::Key),
                (None, name, RecordFormat::Raw) => Some(Outside::Header(name.to_owned())),
                (None, _, RecordFormat::Json) => None,
            };
            match outside {
                Some(_) if slot == Slot::Embedding => return Err(refused("the vector of a JSON record lies in the payload")),
                Some(outside) => layout.add_outside(slot, outside),
                None => layout.tree.add(slot, place, &mut nodes).map_err(|message| refused(&message))?,
            }
        }
        Ok(layout)
    }

    /// Number of segment fields.
    #[must_use]
    pub fn n_fields(&self) -> usize {
        self.n_fields
    }

    /// Whether a place is a header.
    #[must_use]
    pub fn needs_headers(&self) -> bool {
        self.outside.iter().any(|(_, place)| matches!(place, Outside::Header(_)))
    }

    pub(super) fn tree(&self) -> &Node {
        &self.tree
    }

    pub(super) fn outside(&self) -> &[(Vec<Slot>, Outside)] {
        &self.outside
    }

    fn add_outside(&mut self, slot: Slot, place: Outside) {
        match self.outside.iter_mut().find(|(_, known)| *known == place) {
            Some((slots, _)) => slots.push(slot),
            None => self.outside.push((vec![slot], place)),
        }
    }
}

impl Node {
    fn add(&mut self, slot: Slot, path: &str, nodes: &mut u32) -> Result<(), String> {
        let mut node = self;
        for name in path.split('.') {
            if name.is_empty() {
                return Err("expected names joined by single dots".into());
            }
            if !node.slots.is_empty() {
                return Err("another place ends inside this path".into());
            }
            let at = match node.children.iter().position(|(known, _)| known == name) {
                Some(at) => at,
                None if *nodes >= MOST_NODES => return Err(format!("more than {MOST_NODES} names in all paths")),
                None => {
                    node.children.push((name.to_owned(), Node { number: *nodes, ..Node::default() }));
                    *nodes += 1;
                    node.children.len() - 1
                }
            };
            node = &mut node.children[at].1;
        }
        if !node.children.is_empty() {
            return Err("another place leads through this one".into());
        }
        let alone = |slot: &Slot| matches!(slot, Slot::Embedding | Slot::Items);
        if !node.slots.is_empty() && (alone(&slot) || node.slots.iter().any(alone)) {
            return Err("a vector or a list of items cannot share its place".into());
        }
        node.slots.push(slot);
        Ok(())
    }
}

/// Names a slot as the configuration does, for the words of a reject.
pub(super) fn slot_name(settings: &RecordSettings, slot: Slot) -> &str {
    match slot {
        Slot::Embedding => &settings.embedding,
        Slot::Entity => &settings.entity,
        Slot::Timestamp => &settings.timestamp,
        Slot::ModelVersion => &settings.model_version,
        Slot::Items => &settings.items,
        Slot::Segment(_) => "segment field",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(change: impl FnOnce(&mut RecordSettings)) -> RecordSettings {
        let mut settings = RecordSettings::default();
        change(&mut settings);
        settings
    }

    fn error(settings: &RecordSettings, fields: &[&str]) -> String {
        let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
        Layout::new(settings, &fields).unwrap_err().to_string()
    }

    #[test]
    fn places_that_exclude_each_other_are_refused_by_key() {
        assert!(error(&settings(|s| s.entity = "embedding".into()), &[]).starts_with("record.entity = \"embedding\""));
        assert!(error(&settings(|s| s.entity = "embedding.user".into()), &[]).contains("ends inside"));
        assert!(error(&settings(|s| s.embedding = "a.b".into()), &["a"]).contains("leads through"));
        assert!(error(&settings(|s| s.embedding = "header:vector".into()), &[]).contains("lies in the payload"));
        assert!(error(&settings(|s| s.entity = "header:".into()), &[]).contains("name after"));
        assert!(error(&settings(|s| s.embedding = String::new()), &[]).contains("found nothing"));
        assert!(error(&settings(|s| s.entity = "a..b".into()), &[]).contains("single dots"));
    }

    #[test]
    fn one_value_may_be_entity_and_segment() {
        let layout = Layout::new(&settings(|s| s.entity = "user.country".into()), &["user.country".into()]).unwrap();
        let (_, user) = layout.tree.children.iter().find(|(name, _)| name == "user").unwrap();
        assert_eq!(user.children[0].1.slots, [Slot::Entity, Slot::Segment(0)]);
    }

    #[test]
    fn raw_records_take_plain_names_as_headers() {
        let layout = Layout::new(&settings(|s| s.format = RecordFormat::Raw), &["surface".into()]).unwrap();
        assert!(layout.needs_headers());
        assert!(layout.outside.contains(&(vec![Slot::Segment(0)], Outside::Header("surface".into()))));
        let nothing = settings(|s| {
            s.format = RecordFormat::Raw;
            s.entity = "key".into();
            (s.timestamp, s.model_version, s.items) = Default::default();
        });
        assert!(!Layout::new(&nothing, &[]).unwrap().needs_headers());
    }
}
