//! `history recount` and `history rejudge`: from a judged window back to what it came from.

use std::io::Write;

use crate::cli::history::{WindowChoice, usage};
use crate::cli::{Outcome, UsageError};
use crate::config::settings::Settings;
use crate::drift::alert::utc_text;
use crate::drift::closed::{ClosedWindow, counted_version};
use crate::monitor::models::Models;
use crate::monitor::recount::recount;
use crate::store::reader::WindowQuery;
use crate::store::{StoreError, StoreReader};
use crate::workshop::rejudge::rejudge;

/// Differences printed; the JSON has all.
const SHOWN: usize = 10;

pub(super) fn recount_window(settings: &Settings, choice: &WindowChoice) -> anyhow::Result<Outcome> {
    let reader = StoreReader::open(&settings.store.path).map_err(usage)?;
    let stored = windows(&reader, choice)?;
    let salt = reader.entity_salt()?;
    if salt.is_none() && settings.counting.sample_shift > 0 {
        let why = "the salt was forgotten, and with [counting] sample_shift it decides which entities are counted: this window cannot be counted again";
        return Err(UsageError(why.into()).into());
    }
    let found = recount(settings, salt.unwrap_or_default(), &stored)
        .map_err(|error| if error.is_setup() { anyhow::Error::from(UsageError(error.to_string())) } else { error.into() })?;
    let agrees = found.iter().all(|recount| recount.agrees());
    let mut out = std::io::stdout().lock();
    if choice.json {
        writeln!(
            out,
            "{}",
            serde_json::json!({"window_start": utc_text(choice.window.as_millisecond()), "agrees": agrees, "models": found})
        )?;
    } else {
        for recount in &found {
            let floats = if recount.float_difference == 0.0 {
                "sums of floats bit for bit".to_owned()
            } else {
                format!("sums of floats within {:.1e}", recount.float_difference)
            };
            let (n, model) = (recount.differences.len(), &recount.model_version);
            writeln!(out, "{model}: {} records, {} counts compared, {n} differences, {floats}", recount.records, recount.counts)?;
            recount.differences.iter().take(SHOWN).try_for_each(|difference| writeln!(out, "  {difference}"))?;
        }
    }
    Ok(if agrees { Outcome::Done } else { Outcome::No })
}

pub(super) fn rejudge_window(settings: &Settings, choice: &WindowChoice) -> anyhow::Result<Outcome> {
    let reader = StoreReader::open(&settings.store.path).map_err(usage)?;
    let models = Models::open(settings).map_err(|error| UsageError(error.to_string()))?;
    let judging = models.judging(settings).map_err(|error| UsageError(error.to_string()))?;
    let mut found = Vec::new();
    for window in windows(&reader, choice)? {
        let at = models.labels.iter().position(|label| label == counted_version(&window.model_version));
        let at = at.ok_or_else(|| UsageError(format!("no [[model]] is called {:?}, as this window's is", window.model_version)))?;
        let rejudged = rejudge(&reader, &window.model_version, window.start_ms, &judging[at]);
        found.push(rejudged.map_err(|error| UsageError(format!("{error:#}")))?);
    }
    let same = found.iter().all(|rejudged| rejudged.differences.is_empty());
    let mut out = std::io::stdout().lock();
    if choice.json {
        writeln!(out, "{}", serde_json::json!({"window_start": utc_text(choice.window.as_millisecond()), "same": same, "models": found}))?;
    } else {
        for rejudged in &found {
            let (n, model) = (rejudged.differences.len(), &rejudged.model_version);
            writeln!(
                out,
                "{model}: {} windows judged against {}, {} streams compared, {}",
                rejudged.windows,
                rejudged.reference,
                rejudged.streams,
                if n == 0 { "the same bit for bit".to_owned() } else { format!("{n} differences (were the [drift] settings the same?)") }
            )?;
            rejudged.differences.iter().take(SHOWN).try_for_each(|difference| writeln!(out, "  {difference}"))?;
        }
    }
    Ok(if same { Outcome::Done } else { Outcome::No })
}

fn windows(reader: &StoreReader, choice: &WindowChoice) -> anyhow::Result<Vec<ClosedWindow>> {
    let start_ms = choice.window.as_millisecond();
    let query =
        WindowQuery { from_ms: Some(start_ms), to_ms: Some(start_ms + 1), model_version: choice.model.clone(), ..WindowQuery::default() };
    let mut found = Vec::new();
    reader.for_each_window(&query, |window| -> Result<(), StoreError> {
        found.push(window);
        Ok(())
    })?;
    if found.is_empty() {
        let words = format!(
            "no judged window of the current lineage starts at {}: `recsae history export`, the report and /api/v1/windows name those that do",
            utc_text(start_ms)
        );
        return Err(UsageError(words).into());
    }
    Ok(found)
}
