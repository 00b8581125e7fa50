//! What the audit trail tells of people, and of changes of what is watched.

use serde_json::Value;

use crate::drift::alert::utc_text;
use crate::store::audit::AuditEntry;
use crate::workshop::report::content::Deed;

/// The deed an entry tells of, if it is one. Judged windows and alerts are told elsewhere in the report.
pub fn deeds(entry: &AuditEntry) -> impl Iterator<Item = Deed> {
    let body: Value = serde_json::from_str(&entry.body).unwrap_or(Value::Null);
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    let count = |key: &str| body[key].as_array().map_or(0, Vec::len);
    let alert = || body["alert"].as_i64().unwrap_or_default();
    let until = || body["until_ms"].as_i64().map(|ms| format!(" until {}", utc_text(ms))).unwrap_or_default();
    let what = match entry.kind.as_str() {
        "action" => Some(match body["action"].as_str() {
            Some("accept") => format!("accepted the level of alert {} as the new reference", alert()),
            Some("mute") => format!("muted alert {}{}", alert(), until()),
            _ => format!("acknowledged alert {}", alert()),
        }),
        "test_alert" => Some(format!("sent a test alert{}", until())),
        "reference" => Some(format!("a reference {:?} of {} windows was kept", text("name"), body["windows"])),
        "reference_approved" => Some(format!("approved the reference {:?}", text("name"))),
        "lineage" => Some(format!("lineage {} began: {}", body["lineage"], text("description"))),
        "lineage_taken_back" => Some(format!("lineage {} goes on: what began since had counted no window", body["continued"])),
        "alerts_ended" => Some(format!("lineage {} began: {} alerts of the one before ended", body["lineage"], count("alerts"))),
        "pruned" => Some(format!("windows before {} were deleted", utc_text(body["before_ms"].as_i64().unwrap_or_default()))),
        "salt_forgotten" => Some("deleted the salt: entity hashes stored before belong to nobody any more".to_owned()),
        "judged" | "alert_opened" | "alert_crossed" | "alert_recovered" | "explained" | "detectors" => None,
        other => Some(other.replace('_', " ")),
    };
    let deed = what.map(|what| Deed { at: entry.at_ms, who: text("who"), what, why: text("why"), entry: entry.id });
    deed.into_iter()
}
