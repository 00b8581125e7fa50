//! `history backup`, `history prune` and `history forget-salt`: what is kept, and what is let go of.

use std::io::Write;
use std::path::Path;

use crate::cli::history::{ActorArgs, usage};
use crate::cli::in_cluster::refuse_by_hand;
use crate::cli::{Outcome, UsageError};
use crate::clock::{Clock, SystemClock};
use crate::config::settings::Settings;
use crate::drift::alert::utc_text;
use crate::store::audit::Verification;
use crate::store::retention::Actor;
use crate::store::{Store, StoreError, StoreReader};

pub(super) fn backup(settings: &Settings, to: &Path, json: bool) -> anyhow::Result<Outcome> {
    let reader = StoreReader::open(&settings.store.path).map_err(usage)?;
    reader.backup(to).map_err(usage)?;
    // A backup that was never read back is a hope.
    let (entries, head) = match StoreReader::open(to).and_then(|copy| copy.verify_audit(|_| ())).map_err(usage)? {
        Verification::Intact { entries, head } => (entries, head),
        Verification::Broken { entry, why } => {
            return Err(UsageError(format!("the copy is written, but its chain is broken at entry {entry}: {why}")).into());
        }
        Verification::Untold { what, .. } => {
            return Err(UsageError(format!("the copy is written, but it holds what no entry of its chain tells of: {what}")).into());
        }
    };
    let bytes = std::fs::metadata(to)?.len();
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::json!({"out": to, "bytes": bytes, "entries": entries, "head": head}))?;
    } else {
        writeln!(out, "{} ({bytes} bytes), verified: {entries} entries, head {head}", to.display())?;
    }
    Ok(Outcome::Done)
}

pub(super) fn prune(settings: &Settings, before: Option<jiff::Timestamp>, args: &ActorArgs) -> anyhow::Result<Outcome> {
    let now_ms = SystemClock.now_ms();
    let retention_ms = i64::try_from(settings.store.retention.as_millis()).unwrap_or(i64::MAX);
    let before_ms = before.map_or(now_ms.saturating_sub(retention_ms), jiff::Timestamp::as_millisecond);
    if before_ms > now_ms {
        return Err(UsageError(format!("expected --before in the past, found {}: every window would go", utc_text(before_ms))).into());
    }
    let n = writer(settings)?.prune(before_ms, &actor(args, now_ms)?).map_err(usage)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::json!({"windows": n, "before": utc_text(before_ms)}))?;
    } else {
        writeln!(out, "{n} windows that ended by {} deleted; the chain keeps their digests", utc_text(before_ms))?;
    }
    Ok(Outcome::Done)
}

pub(super) fn forget_salt(settings: &Settings, args: &ActorArgs) -> anyhow::Result<Outcome> {
    let n = writer(settings)?.forget_salt(&actor(args, SystemClock.now_ms())?).map_err(usage)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::json!({"salts": n}))?;
    } else if n == 0 {
        writeln!(out, "there was no salt")?;
    } else {
        writeln!(
            out,
            "the salt is deleted: stored hashes belong to nobody now, and the next run draws a new salt. Backups still hold the old one"
        )?;
    }
    Ok(Outcome::Done)
}

/// Takes the store's lock; opened for reading first, so that a wrong path does not make an empty store.
fn writer(settings: &Settings) -> anyhow::Result<Store> {
    refuse_by_hand(settings)?;
    StoreReader::open(&settings.store.path).map_err(usage)?;
    Store::open(&settings.store.path).map_err(|error| match error {
        locked @ StoreError::Locked { .. } => UsageError(format!("{locked} (stop the monitor first: there is one writer)")).into(),
        error => usage(error),
    })
}

/// The program alone acts without a name: by the rule of `[store] retention`.
fn actor(args: &ActorArgs, at_ms: i64) -> Result<Actor, UsageError> {
    if args.who.trim().is_empty() {
        return Err(UsageError("a deletion needs to say who does it, found an empty text".into()));
    }
    Ok(Actor { who: args.who.clone(), why: args.why.clone(), at_ms })
}
