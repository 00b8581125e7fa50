//! A store of a cluster is changed by the judge's log alone: what a command wrote into one by hand would be in no other.

use crate::cli::UsageError;
use crate::config::settings::Settings;

/// Refuses to write into the store of a configuration that is in a cluster.
///
/// # Errors
/// It is.
pub(super) fn refuse_by_hand(settings: &Settings) -> Result<(), UsageError> {
    if !settings.cluster.enabled {
        return Ok(());
    }
    Err(UsageError(format!(
        "the store {} belongs to a cluster ([cluster] enabled): what is written into it by hand is in no other instance's, which then differ; \
         do it through an instance that runs, or let [store] retention do it",
        settings.store.path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_a_cluster_is_not_written_by_hand() {
        let mut settings = Settings::default();
        refuse_by_hand(&settings).unwrap();
        settings.cluster.enabled = true;
        assert!(refuse_by_hand(&settings).unwrap_err().to_string().contains("recsae.db belongs to a cluster"));
    }
}
