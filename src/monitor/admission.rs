//! Where workers and the judge agree on segments: admitted names with the first window they hold for.
//!
//! The judge may admit a name only for windows that no worker has opened yet. The edge that event time gives is such a
//! window where workers keep the pace ([`crate::monitor::pace`]); where they could not, it moves. Both sides therefore
//! meet under one lock: a worker says which window it is about to open and takes the names known so far; the judge's
//! edge is never before the newest window anybody opened.

use std::sync::{Mutex, PoisonError};

use crate::config::check::segment_field;
use crate::config::settings::Settings;
use crate::drift::segment::SegmentFields;

/// A segment that is followed from a window on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Segment name.
    pub segment: String,
    /// First window start it holds for, ms since 1970 UTC.
    pub from_ms: i64,
}

/// The board both sides read and write.
#[derive(Debug, Default)]
pub struct AdmissionBoard {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    admitted: Vec<Admission>,
    newest_opened_ms: Option<i64>,
    /// In a cluster: the edge is event time's alone, which all instances know.
    is_shared: bool,
}

impl AdmissionBoard {
    /// A board that holds what was stored, and what the configuration names (`from_ms = i64::MIN`).
    /// `newest_opened_ms`: newest window that was opened before this start, as far as anything of it is stored.
    /// A part of such a window may be closed already, and must not meet parts that follow other segments.
    #[must_use]
    pub fn new(admitted: Vec<Admission>, newest_opened_ms: Option<i64>) -> Self {
        Self { state: Mutex::new(State { admitted, newest_opened_ms, is_shared: false }) }
    }

    /// A board that all instances of a cluster have alike: what one of them has opened moves no edge, because all keep the
    /// pace.
    #[must_use]
    pub fn shared(admitted: Vec<Admission>) -> Self {
        Self { state: Mutex::new(State { admitted, newest_opened_ms: None, is_shared: true }) }
    }

    /// A worker is about to open a window: gives the admissions after the `known` first ones.
    pub fn open_window(&self, window_start_ms: i64, known: usize) -> Vec<Admission> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.newest_opened_ms = state.newest_opened_ms.max(Some(window_start_ms));
        state.admitted.get(known..).unwrap_or_default().to_vec()
    }

    /// The judge admits names, for windows of `length_ms` after the newest that was opened anywhere and
    /// not before `not_before_ms`. Returns what was admitted: to be stored in the same transaction as the
    /// window that showed them.
    pub fn admit(&self, names: Vec<String>, length_ms: i64, not_before_ms: i64) -> Vec<Admission> {
        if names.is_empty() {
            return Vec::new();
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let opened_ms = state.newest_opened_ms.filter(|_| !state.is_shared);
        let from_ms = opened_ms.map_or(not_before_ms, |newest| newest + length_ms).max(not_before_ms);
        let admitted: Vec<Admission> = names.into_iter().map(|segment| Admission { segment, from_ms }).collect();
        state.admitted.extend(admitted.iter().cloned());
        admitted
    }

    /// Every admitted name.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.admitted.iter().map(|admission| admission.segment.clone()).collect()
    }

    /// How many names are admitted.
    #[must_use]
    pub fn n_admitted(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).admitted.len()
    }
}

/// Names of segment fields and pairs as configured.
#[must_use]
pub fn segment_fields(settings: &Settings) -> SegmentFields {
    let names: Vec<String> = settings.segments.fields.iter().map(|field| segment_field(field).to_owned()).collect();
    let position = |field: &String| settings.segments.fields.iter().position(|known| known == field);
    let pairs = settings.segments.pairs.iter().filter_map(|[a, b]| position(a).zip(position(b))).collect();
    SegmentFields { names, pairs }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_admitted_beyond_every_window_that_was_opened() {
        let board = AdmissionBoard::new(Vec::new(), None);
        assert!(board.open_window(100, 0).is_empty());
        assert!(board.open_window(300, 0).is_empty());
        assert!(board.open_window(200, 0).is_empty());
        let admitted = board.admit(vec!["surface=home".into()], 100, 0);
        assert_eq!(admitted, [Admission { segment: "surface=home".into(), from_ms: 400 }]);
        assert_eq!(board.open_window(400, 0), admitted);
        assert!(board.open_window(500, 1).is_empty());
    }

    #[test]
    fn after_a_start_a_name_is_admitted_beyond_the_windows_that_were_open_before_it() {
        let board = AdmissionBoard::new(Vec::new(), Some(300));
        let admitted = board.admit(vec!["surface=home".into()], 100, 200);
        assert_eq!(admitted[0].from_ms, 400, "a part of 300 may be stored with the name in _other");
    }
}
