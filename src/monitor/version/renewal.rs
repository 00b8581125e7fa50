//! References that are not the first windows for good: rolling ones, and another model version's.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Version, first_name};
use crate::drift::alert::utc_text;
use crate::drift::reference::Reference;
use crate::drift::report::StreamState;
use crate::drift::rolling::{ROLLING_PREFIX, Rolling};
use crate::monitor::error::MonitorError;
use crate::store::reader::WindowQuery;
use crate::store::{Store, StoreError};

impl Version {
    /// Fits a rolling reference anew when it is time. Windows with anything in alert are not in it, and while
    /// anything is, nothing is fitted. One that cannot be fitted is said, and the old one stays.
    pub(super) fn renew(&mut self, store: &mut Store, now_ms: i64) -> Result<bool, MonitorError> {
        let Some(windows) = self.rolling.as_mut().and_then(Rolling::due) else { return Ok(false) };
        let until = windows.last().map_or(0, |window| window.end_ms);
        let name = format!("{}{}", self.rolling_prefix(store.lineage()), utc_text(until));
        let Some(windows) = self.rolling.as_mut().map(Rolling::windows) else { return Ok(false) };
        let reference = match Reference::fit(&name, self.bundle.fingerprint(), windows, &self.settings) {
            Ok(reference) => reference,
            Err(error) => {
                tracing::warn!(%error, model = %self.label, "the rolling reference is not renewed: the old one stays");
                return Ok(false);
            }
        };
        let Some(judge) = self.judge.take() else { return Ok(false) };
        let last_start_ms = judge.last_start_ms().unwrap_or_default();
        store.put_fitted(&reference, now_ms)?;
        self.judge = Some(judge.renewed(Arc::new(reference))?);
        self.created_ms = now_ms;
        store.put_judge_state(&self.label, last_start_ms, &self.state()?, now_ms)?;
        tracing::info!(reference = %name, model = %self.label, "rolling reference renewed");
        Ok(true)
    }

    /// Takes up the first reference of the other model version, once it is there.
    pub(super) fn take_other(&mut self, store: &Store) -> Result<(), MonitorError> {
        let Some(other) = &self.of_model else { return Ok(()) };
        let name = first_name(other, self.bundle.fingerprint(), store.lineage());
        if let Some((entry, reference)) = store.read().fitted(&name)? {
            self.take_up(&entry, reference, store)?;
        }
        Ok(())
    }

    /// After a restart: the windows of the rolling reference in use and those since, without what was in alert.
    pub(super) fn refill_rolling(&mut self, store: &Store) -> Result<(), MonitorError> {
        let (true, Some(judge), Some(span)) = (self.is_rolling, &self.judge, self.first_windows) else { return Ok(()) };
        let from_ms = Some(judge.reference().first_start_ms);
        let query = WindowQuery { model_version: Some(self.label.clone()), from_ms, ..WindowQuery::default() };
        let mut in_alert = BTreeSet::new();
        store.read().for_each_report(&query, |report| {
            if report.segments.iter().flat_map(|segment| &segment.streams).any(|stream| stream.state == StreamState::Alert) {
                in_alert.insert(report.start_ms);
            }
            Ok::<(), MonitorError>(())
        })?;
        let mut windows = Vec::new();
        store.read().for_each_window(&query, |window| {
            windows.extend((!in_alert.contains(&window.start_ms)).then_some(window));
            Ok::<(), StoreError>(())
        })?;
        self.rolling = Some(Rolling::new(span, windows));
        Ok(())
    }

    /// Name of the newest rolling reference of this version and lineage.
    pub(super) fn newest_rolling(&self, store: &Store) -> Result<Option<String>, StoreError> {
        let prefix = self.rolling_prefix(store.lineage());
        let newest = store.read().references()?.into_iter().filter(|entry| entry.name.starts_with(&prefix)).max_by_key(|entry| entry.to_ms);
        Ok(newest.map(|entry| entry.name))
    }

    fn rolling_prefix(&self, lineage: i64) -> String {
        format!("{ROLLING_PREFIX}{}-to-", first_name(&self.label, self.bundle.fingerprint(), lineage).trim_start_matches("first-"))
    }
}
