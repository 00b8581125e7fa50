//! What can go wrong with the store, by what the caller does about it.

use std::path::PathBuf;

use crate::record::TopicPartition;

/// Result of a store call.
pub type StoreResult<T> = Result<T, StoreError>;

/// A store call that failed; the store is then as it was before.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process writes to it.
    #[error("the store {} is in use by another recsae process: stop that one, or give this one a [store] path of its own", path.display())]
    Locked {
        /// The store.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("expected a recsae store at {}, found {found}: choose another [store] path, the file is left as it is", path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// What it is, as far as can be told.
        found: String,
    },
    /// There is no file.
    #[error("no store at {}: `recsae run` makes it; check [store] path", path.display())]
    Missing {
        /// Where it would be.
        path: PathBuf,
    },
    /// Written by an older program.
    #[error("the store {} has schema version {found}, this program reads {supported}: `recsae run` brings it up", path.display())]
    Older {
        /// The store.
        path: PathBuf,
        /// Its schema version; 0 = an empty file.
        found: i64,
        /// What this program reads.
        supported: i64,
    },
    /// Written by a newer program.
    #[error(
        "the store {} has schema version {found}, this program knows up to {supported}: use the newer recsae, or another [store] path",
        path.display()
    )]
    Newer {
        /// The store.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest this program knows.
        supported: i64,
    },
    /// Bytes that are not as they were written.
    #[error("the store is damaged at {place}: {found}; restore a backup, or move the file away and count again from the topic")]
    Damaged {
        /// Table and row, or the file.
        place: String,
        /// What was found there.
        found: String,
    },
    /// The same part of a window was counted twice with different results.
    #[error(
        "window {start_ms} of {partition} is stored with other counts: the same records were counted differently, \
         which only a changed configuration, SAE or library can cause; nothing was stored"
    )]
    UnequalPartial {
        /// Partition of the partial window.
        partition: TopicPartition,
        /// Its window start.
        start_ms: i64,
    },
    /// A judgement that does not name all stored parts of its window.
    #[error("window {start_ms} was judged from {named} parts, {stored} are stored: merge them again and judge again")]
    StalePartials {
        /// Window start.
        start_ms: i64,
        /// Parts the judgement names.
        named: usize,
        /// Parts that are stored.
        stored: usize,
    },
    /// No such alert, reference, ...
    #[error("no {what} {name:?} in the store")]
    NotFound {
        /// What was asked for.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A name that is taken by something else, or an action that does not fit.
    #[error("{0}")]
    Refused(String),
    /// A call before `begin_lineage`.
    #[error("no lineage was begun: call begin_lineage before storing steps")]
    NoLineage,
    /// The file system refused.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// SQLite refused (disk full, read-only, ...).
    #[error("the store's database refused: {0}")]
    Database(#[from] rusqlite::Error),
}

impl StoreError {
    /// Stable name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "store_locked",
            Self::NotAStore { .. } => "not_a_store",
            Self::Missing { .. } => "no_store",
            Self::Older { .. } => "store_older",
            Self::Newer { .. } => "store_newer",
            Self::Damaged { .. } => "store_damaged",
            Self::UnequalPartial { .. } => "unequal_partial",
            Self::StalePartials { .. } => "stale_partials",
            Self::NotFound { .. } => "not_found",
            Self::Refused(_) => "refused",
            Self::NoLineage => "no_lineage",
            Self::Io { .. } => "store_io",
            Self::Database(_) => "store_database",
        }
    }

    /// Whether usage or set-up must be mended, rather than a fault of ours.
    #[must_use]
    pub fn is_setup(&self) -> bool {
        use StoreError::{Database, NoLineage, StalePartials, UnequalPartial};
        !matches!(self, UnequalPartial { .. } | StalePartials { .. } | NoLineage | Database(_))
    }

    pub(crate) fn damaged(place: impl Into<String>, found: impl std::fmt::Display) -> Self {
        Self::Damaged { place: place.into(), found: found.to_string() }
    }
}
