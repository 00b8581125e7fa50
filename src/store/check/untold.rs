//! Facts that a later entry replaces, against their rows; and rows that no entry tells of.

use rusqlite::{OptionalExtension, params};

use super::Fault;
use super::told::Told;
use crate::drift::alert::utc_text;
use crate::store::audit::AuditEntry;
use crate::store::codec;
use crate::store::error::StoreResult;
use crate::store::reader::StoreReader;

impl StoreReader {
    /// Lineages, approvals, admitted segments and detector states that this entry told last.
    pub(super) fn check_last_words(&self, entry: &AuditEntry, told: &Told) -> StoreResult<Fault> {
        for (id, word) in told.lineages.iter().filter(|(_, word)| word.entry == entry.id) {
            let sql = "SELECT counting_hash IS ?2 AND description IS ?3 AND began_ms IS ?4 FROM lineages WHERE id = ?1";
            let text = |key: &str| word.body[key].as_str();
            let said = params![id, text("counting_hash"), text("description"), word.at_ms];
            if self.connection.query_row(sql, said, |row| row.get(0)).optional()? != Some(true) {
                return Ok(Some(format!("lineage {id} is missing or was changed")));
            }
        }
        for (name, word) in told.approvals.iter().filter(|(_, word)| word.entry == entry.id) {
            let sql = "SELECT approved_by IS ?2 AND approved_why IS ?3 AND approved_ms IS ?4 FROM reference_models WHERE name = ?1";
            let text = |key: &str| word.body[key].as_str();
            let said = params![name, text("who"), text("why"), word.at_ms];
            if self.connection.query_row(sql, said, |row| row.get(0)).optional()? != Some(true) {
                return Ok(Some(format!("the approval of reference {name:?} is missing or was changed")));
            }
        }
        for ((lineage, segment), (from_ms, _)) in told.admitted.iter().filter(|(_, (_, at))| *at == entry.id) {
            let sql = "SELECT from_ms IS ?3 FROM admitted_segments WHERE lineage = ?1 AND segment = ?2";
            if self.connection.query_row(sql, params![lineage, segment, from_ms], |row| row.get(0)).optional()? != Some(true) {
                return Ok(Some(format!("segment {segment} is not followed from the window that was said")));
            }
        }
        let states = told.states.iter().filter_map(|(place, state)| Some((place, state.as_ref()?)));
        for ((lineage, version), state) in states.filter(|(_, state)| state.entry == entry.id) {
            let sql = "SELECT state, window_start IS ?3 FROM judge_states WHERE lineage = ?1 AND model_version = ?2";
            let said = params![lineage, version, state.window_start];
            let found: Option<(Vec<u8>, bool)> = self.connection.query_row(sql, said, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let same = found.is_some_and(|(frame, same_window)| {
                same_window && codec::decompress(&frame).is_ok_and(|bytes| codec::hex(&codec::digest(&bytes)) == state.digest)
            });
            if !same {
                return Ok(Some(format!("the detectors of model {version:?} are not in the state they were left in")));
            }
        }
        Ok(None)
    }

    /// The first row that no entry tells of.
    pub(super) fn untold(&self, told: &Told) -> StoreResult<Fault> {
        let lineages = self.numbers("SELECT id, 0 FROM lineages")?;
        if let Some((id, _)) = lineages.into_iter().find(|(id, _)| !told.lineages.contains_key(id)) {
            return Ok(Some(format!("lineage {id}")));
        }
        let windows = self.numbers("SELECT lineage, window_start FROM windows")?;
        if let Some((_, start)) = windows.into_iter().find(|window| !told.windows.contains_key(window)) {
            return Ok(Some(format!("window {}", utc_text(start))));
        }
        for (what, sql) in [
            ("counts", "SELECT lineage, window_start FROM judged_models EXCEPT SELECT lineage, window_start FROM windows"),
            (
                "a segment",
                "SELECT lineage, window_start FROM (SELECT lineage, window_start, model_version FROM judged_segments EXCEPT SELECT lineage, window_start, model_version FROM judged_models)",
            ),
        ] {
            if let Some((_, start)) = self.numbers(sql)?.first() {
                return Ok(Some(format!("{what} of window {}", utc_text(*start))));
            }
        }
        if let Some((id, _)) = self.numbers("SELECT id, 0 FROM alerts")?.into_iter().find(|(id, _)| !told.knows_alert(*id)) {
            return Ok(Some(format!("alert {id}")));
        }
        // A window of an older program tells of the crossings that opened alerts, and of no later ones.
        let is_told =
            |crossing: &(i64, i64)| told.crossings.contains(crossing) || !told.tells_all((told.lineage_of_alert(crossing.0), crossing.1));
        if let Some((id, _)) = self.numbers("SELECT alert, window_start FROM crossings")?.into_iter().find(|crossing| !is_told(crossing)) {
            return Ok(Some(format!("a crossing of alert {id}")));
        }
        let actions: i64 = self.connection.query_row("SELECT count(*) FROM actions", [], |row| row.get(0))?;
        let n_told = told.actions_before(i64::MAX);
        if actions > n_told {
            return Ok(Some(format!("an action: there are {actions}, {n_told} are told")));
        }
        if let Some((id, _)) =
            self.numbers("SELECT alert, 0 FROM explanations")?.into_iter().find(|(id, _)| !told.explained.contains_key(id))
        {
            return Ok(Some(format!("the explanation of alert {id}")));
        }
        self.untold_names(told)
    }

    fn untold_names(&self, told: &Told) -> StoreResult<Fault> {
        for reference in self.references()? {
            if !told.references.contains(&reference.name) {
                return Ok(Some(format!("reference {:?}", reference.name)));
            }
        }
        let approved = "SELECT name FROM reference_models WHERE coalesce(approved_ms, approved_by, approved_why) IS NOT NULL";
        let mut statement = self.connection.prepare(approved)?;
        for name in statement.query_map([], |row| row.get::<_, String>(0))? {
            let name = name?;
            if !told.approvals.contains_key(&name) {
                return Ok(Some(format!("the approval of reference {name:?}")));
            }
        }
        let mut statement = self.connection.prepare("SELECT lineage, segment FROM admitted_segments")?;
        for place in statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))? {
            let place = place?;
            if !told.admitted.contains_key(&place) {
                return Ok(Some(format!("that segment {} is followed", place.1)));
            }
        }
        let mut statement = self.connection.prepare("SELECT lineage, model_version FROM judge_states")?;
        for place in statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))? {
            let place = place?;
            if !told.states.contains_key(&place) {
                return Ok(Some(format!("the detectors of model {:?}", place.1)));
            }
        }
        Ok(None)
    }

    fn numbers(&self, sql: &str) -> StoreResult<Vec<(i64, i64)>> {
        let mut statement = self.connection.prepare(sql)?;
        Ok(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?)
    }
}
