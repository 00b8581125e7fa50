//! What the judge holds of one model version: its reference and its detectors. The windows that a first reference is made
//! of lie in the store meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::bundle::Bundle;
use crate::config::ReferenceChoice;
use crate::drift::alert::AlertConcept;
use crate::drift::closed::{AGAINST, ClosedWindow};
use crate::drift::judge::ModelJudge;
use crate::drift::reference::Reference;
use crate::drift::reference::SelfCheck;
use crate::drift::report::{AlertChange, DriftReport, Verdict};
use crate::drift::rolling::Rolling;
use crate::drift::settings::JudgeSettings;
use crate::drift::stream::StreamId;
use crate::drift::unjudged::warmup_report;
use crate::monitor::error::MonitorError;
use crate::monitor::models::Models;
use crate::sae::latent::LatentId;
use crate::snapshot::{ConceptName, HISTORY_WINDOWS, ModelPicture, RateHistory, ReferenceFacts};
use crate::store::alerts::AcceptedState;
use crate::store::reader::WindowQuery;
use crate::store::references::ReferenceEntry;
use crate::store::{Store, StoreError};

mod renewal;

/// One model version under judgement.
pub struct Version {
    label: String,
    bundle: Arc<Bundle>,
    settings: JudgeSettings,
    /// Windows the first reference is made of; `None` where a reference is named.
    first_windows: Option<usize>,
    /// The named reference that cannot be used yet, and why.
    waits_for: Option<(String, String)>,
    /// The model version whose reference this one is judged by, where it is not its own.
    of_model: Option<String>,
    is_rolling: bool,
    rolling: Option<Rolling<ClosedWindow>>,
    judge: Option<ModelJudge>,
    created_ms: i64,
    names: Arc<BTreeMap<StreamId, ConceptName>>,
    history: RateHistory,
    last: Option<Arc<DriftReport>>,
}

impl Version {
    /// Every version of the configuration. With `model:V` each but V itself is there twice: judged by its own first
    /// windows, and as `OTHER against V` by V's, so that a canary is told both that it changed and that it differs.
    ///
    /// # Errors
    /// As [`Version::restore`].
    pub fn all(models: &Models, judging: Vec<JudgeSettings>, choice: &ReferenceChoice, store: &Store) -> Result<Vec<Self>, MonitorError> {
        let mut versions = Vec::new();
        for ((label, bundle), judging) in models.labels.iter().zip(&models.bundles).zip(judging) {
            let restore = |name: &str, choice: &ReferenceChoice| Self::restore(name, Arc::clone(bundle), judging.clone(), choice, store);
            match choice {
                ReferenceChoice::OfModel(first) if first != label => {
                    versions.push(restore(label, &ReferenceChoice::OfModel(label.clone()))?);
                    versions.push(restore(&format!("{label}{AGAINST}{first}"), choice)?);
                }
                choice => versions.push(restore(label, choice)?),
            }
        }
        Ok(versions)
    }

    /// Goes on where the store says this version was.
    ///
    /// # Errors
    /// A named reference is missing, unapproved, or of another SAE; the store is damaged.
    pub fn restore(
        label: &str,
        bundle: Arc<Bundle>,
        settings: JudgeSettings,
        choice: &ReferenceChoice,
        store: &Store,
    ) -> Result<Self, MonitorError> {
        let first_windows = choice.first_windows(std::time::Duration::from_millis(settings.window_ms.unsigned_abs()));
        let mut version = Self {
            label: label.to_owned(),
            names: Arc::new(names(&bundle)),
            bundle,
            settings,
            first_windows: first_windows.and_then(|n| usize::try_from(n).ok()),
            waits_for: None,
            of_model: match choice {
                ReferenceChoice::OfModel(other) if other != label => Some(other.clone()),
                _ => None,
            },
            is_rolling: choice.is_rolling(),
            rolling: None,
            judge: None,
            created_ms: 0,
            history: RateHistory::default(),
            last: None,
        };
        let first = version.first_name(store.lineage());
        let wanted = if version.is_rolling { version.newest_rolling(store)?.unwrap_or(first) } else { first };
        if let ReferenceChoice::Named(name) = choice {
            version.waits_for = Some((name.clone(), String::new()));
            version.take_up_named(store)?;
        } else if version.of_model.is_some() {
            version.take_other(store)?;
        } else if let Some((entry, reference)) = store.read().fitted(&wanted)? {
            version.take_up(&entry, reference, store)?;
        }
        version.refill_rolling(store)?;
        version.recall(store)?;
        Ok(version)
    }

    /// The last windows' rates and verdicts, so that a restart shows what was known.
    fn recall(&mut self, store: &Store) -> Result<(), MonitorError> {
        let Some((last_start_ms, _)) = store.read().last_judged()? else { return Ok(()) };
        let span = self.settings.window_ms.saturating_mul(HISTORY_WINDOWS as i64);
        let query = WindowQuery {
            model_version: Some(self.label.clone()),
            from_ms: Some(last_start_ms.saturating_sub(span)),
            ..WindowQuery::default()
        };
        store.read().for_each_report(&query, |report| {
            self.history.push(&report);
            self.last = Some(Arc::new(report));
            Ok::<(), MonitorError>(())
        })
    }

    /// Takes up the named reference, if it is waited for and can be used by now. One that is missing, not approved or
    /// of another SAE stops nothing: windows are counted and get no verdict until it is there.
    ///
    /// # Errors
    /// The store is damaged, or the reference was made for other windows.
    pub fn take_up_named(&mut self, store: &Store) -> Result<(), MonitorError> {
        let Some((name, _)) = self.waits_for.take() else { return Ok(()) };
        let taken = match store.read().fitted(&name)? {
            None => Err(MonitorError::NoReference { name: name.clone(), known: known_references(store)? }),
            Some((entry, _)) if entry.approval.is_none() => Err(MonitorError::NotApproved { name: name.clone() }),
            Some((entry, reference)) => self.take_up(&entry, reference, store),
        };
        match taken {
            Ok(()) => tracing::info!(reference = name, model = self.label, "reference in use"),
            Err(
                why @ (MonitorError::NoReference { .. } | MonitorError::NotApproved { .. } | MonitorError::ReferenceOfAnotherSae { .. }),
            ) => {
                tracing::warn!(%why, model = self.label, "no verdicts until there is a reference");
                self.waits_for = Some((name, why.to_string()));
            }
            Err(other) => return Err(other),
        }
        Ok(())
    }

    /// Why the named reference cannot be used yet; `None` where it is in use, or none is named.
    #[must_use]
    pub fn waits_for(&self) -> Option<&str> {
        self.waits_for.as_ref().map(|(_, why)| why.as_str())
    }

    fn take_up(&mut self, entry: &ReferenceEntry, reference: Reference, store: &Store) -> Result<(), MonitorError> {
        if entry.fingerprint != self.bundle.fingerprint() {
            let (name, found, expected) = (entry.name.clone(), entry.fingerprint.clone(), self.bundle.fingerprint().to_owned());
            return Err(MonitorError::ReferenceOfAnotherSae { name, found, expected });
        }
        let mut judge = ModelJudge::new(Arc::new(reference), self.settings.clone())?;
        if let Some((_, state)) = store.read().judge_state(&self.label)?
            && !state.is_empty()
        {
            let state = rmp_serde::from_slice(&state).map_err(|error| MonitorError::damaged("detector state", &self.label, &error))?;
            if let Err(error) = judge.restore(state) {
                tracing::warn!(%error, "detectors start with no evidence");
            }
        }
        self.created_ms = entry.created_ms;
        self.judge = Some(judge);
        Ok(())
    }

    /// Judges a window; until there is a reference it is only stored, for the first one.
    pub fn judge(&mut self, window: &ClosedWindow) -> DriftReport {
        let report = match (&mut self.judge, &self.waits_for) {
            (Some(judge), _) => judge.judge(window),
            (None, Some((_, why))) => {
                let mut report = warmup_report(window, Verdict::InsufficientReference);
                for segment in report.segments.iter_mut().filter(|segment| segment.why.is_none()) {
                    segment.why = Some(why.clone());
                }
                report
            }
            (None, None) if self.of_model.is_some() => warmup_report(window, Verdict::InsufficientReference),
            (None, None) => warmup_report(window, Verdict::Warmup),
        };
        if let (Some(rolling), Some(_)) = (&mut self.rolling, &self.judge) {
            rolling.push(window.clone(), &report);
        }
        self.history.push(&report);
        self.last = Some(Arc::new(report.clone()));
        report
    }

    /// Detector state as stored beside the window; empty while there is none.
    ///
    /// # Errors
    /// Never in practice: the state cannot be written down.
    pub fn state(&self) -> Result<Vec<u8>, MonitorError> {
        let Some(judge) = &self.judge else { return Ok(Vec::new()) };
        rmp_serde::to_vec_named(&judge.state()).map_err(|error| MonitorError::damaged("detector state", &self.label, &error))
    }

    /// What accepting the level of a stream in ALERT would make of the detectors, not yet in use: it is
    /// stored first, then [`Version::adopt`]ed.
    ///
    /// # Errors
    /// There are no detectors, the stream is not in ALERT, or the state cannot be written down.
    pub fn accepting(&self, segment: &str, stream: StreamId) -> Result<(ModelJudge, AcceptedState), MonitorError> {
        let refused = |why: String| MonitorError::Store(StoreError::Refused(why));
        let judge = self.judge.as_ref().ok_or_else(|| refused("expected a reference in use, found none".to_owned()))?;
        let mut judge = judge.clone();
        let level = judge.accept(segment, stream).map_err(|error| refused(error.to_string()))?;
        let state =
            rmp_serde::to_vec_named(&judge.state()).map_err(|error| MonitorError::damaged("detector state", &self.label, &error))?;
        let window_start_ms = judge.last_start_ms().unwrap_or_default();
        Ok((judge, AcceptedState { model_version: self.label.clone(), window_start_ms, state, factor: level.factor }))
    }

    /// Judges by these detectors from now on.
    pub fn adopt(&mut self, judge: ModelJudge) {
        self.judge = Some(judge);
    }

    /// Makes the first reference once enough windows are stored. A refusal is said once per window
    /// and more windows are waited for: the newest ones are tried again.
    ///
    /// # Errors
    /// The store refuses.
    pub fn fit_first(&mut self, store: &mut Store, now_ms: i64) -> Result<bool, MonitorError> {
        if self.judge.is_some() {
            return self.renew(store, now_ms);
        }
        if self.of_model.is_some() {
            self.take_other(store)?;
            return Ok(self.judge.is_some());
        }
        let n_judged = store.read().n_judged(&self.label)?;
        let Some(wanted) = self.first_windows.filter(|n| n_judged >= *n) else { return Ok(false) };
        let name = self.first_name(store.lineage());
        // Read again rather than kept: with many segments and latents two weeks of windows are some hundred MB.
        let query = WindowQuery { model_version: Some(self.label.clone()), ..WindowQuery::default() };
        let newest = |each: &mut dyn FnMut(&ClosedWindow)| {
            let mut n_older = n_judged - wanted;
            store.read().for_each_window(&query, |window| {
                if n_older == 0 {
                    each(&window);
                }
                n_older = n_older.saturating_sub(1);
                Ok::<(), StoreError>(())
            })
        };
        let fitted = Reference::fit_read(&name, self.bundle.fingerprint(), &self.settings, newest)?;
        let reference = match fitted {
            Ok(reference) => reference,
            Err(error) => {
                tracing::warn!(%error, model = %self.label, "no reference yet: the next window is waited for");
                return Ok(false);
            }
        };
        store.put_fitted(&reference, now_ms)?;
        tracing::info!(reference = %name, windows = reference.n_windows, model = %self.label, "reference made from the first windows");
        self.judge = Some(ModelJudge::new(Arc::new(reference), self.settings.clone())?);
        self.created_ms = now_ms;
        self.refill_rolling(store)?;
        Ok(true)
    }

    /// The concepts of the streams that crossed in a report, as their alerts keep them.
    #[must_use]
    pub fn concepts(&self, report: &DriftReport) -> BTreeMap<StreamId, AlertConcept> {
        let crossed = report.changes.iter().filter_map(|change| match change {
            AlertChange::Opened(crossing) | AlertChange::CrossedAgain(crossing) => Some(crossing.stream),
            AlertChange::Relapsing(_) | AlertChange::Recovered { .. } => None,
        });
        let concept = |stream: StreamId| {
            let name = self.names.get(&stream).map(|known| (known.name.clone(), known.verification.clone()));
            (stream, AlertConcept { fingerprint: Some(self.bundle.fingerprint().to_owned()), name })
        };
        crossed.map(concept).collect()
    }

    /// Segments the reference knows: followed from the start.
    pub fn reference_segments(&self) -> impl Iterator<Item = &String> {
        self.judge.iter().flat_map(|judge| judge.reference().segments.keys())
    }

    /// Label of the version.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The version as metrics, API and page show it.
    #[must_use]
    pub fn picture(&self) -> ModelPicture {
        ModelPicture {
            model_version: self.label.clone(),
            fingerprint: self.bundle.fingerprint().to_owned(),
            d_sae: self.bundle.spec().d_sae.get(),
            names: Arc::clone(&self.names),
            streams_tested: self.judge.as_ref().map_or(0, ModelJudge::streams_tested),
            reference: self.judge.as_ref().map(|judge| facts_of(judge.reference(), self.created_ms)),
            report: self.last.clone(),
            history: self.history.clone(),
        }
    }

    fn first_name(&self, lineage: i64) -> String {
        first_name(&self.label, self.bundle.fingerprint(), lineage)
    }
}

fn first_name(label: &str, fingerprint: &str, lineage: i64) -> String {
    format!("first-{label}-{}-lineage-{lineage}", fingerprint.get(..8).unwrap_or(fingerprint))
}

fn known_references(store: &Store) -> Result<String, StoreError> {
    let names: Vec<String> = store.read().references()?.into_iter().map(|entry| entry.name).collect();
    Ok(if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}

fn facts_of(reference: &Reference, created_ms: i64) -> ReferenceFacts {
    ReferenceFacts {
        name: reference.name.clone(),
        fingerprint: reference.fingerprint.clone(),
        created_ms,
        from_ms: reference.first_start_ms,
        to_ms: reference.last_end_ms,
        windows: reference.n_windows as u64,
        self_measured_wander: Some(reference.sigma_w),
        self_checked: matches!(reference.self_check, SelfCheck::Passed { .. }),
    }
}

/// Names of all streams of a bundle.
#[must_use]
pub fn names(bundle: &Bundle) -> BTreeMap<StreamId, ConceptName> {
    let catalogue = bundle.catalogue();
    let family_of: BTreeMap<LatentId, u32> =
        catalogue.families.iter().flat_map(|family| family.latents.iter().map(|latent| (*latent, family.id))).collect();
    let latents = (0..bundle.spec().d_sae.get()).filter_map(|i| u32::try_from(i).ok()).map(|i| StreamId::Latent(LatentId(i)));
    // A family's stream is its position in the catalogue's list, as the windows count it.
    let families = (0..catalogue.families.len()).filter_map(|i| u32::try_from(i).ok()).map(StreamId::Family);
    latents
        .chain(families)
        .chain([StreamId::ResidualOutlier, StreamId::DeadRecord])
        .map(|stream| {
            let family = if let StreamId::Latent(latent) = stream { family_of.get(&latent).copied() } else { None };
            let verification = bundle.stream_verification(stream).kind().to_owned();
            (stream, ConceptName { name: bundle.stream_name(stream), verification, family })
        })
        .collect()
}
