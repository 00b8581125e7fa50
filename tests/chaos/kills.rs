//! Row 1: kill -9.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::monitor::Checked;
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::verdict::settle;

/// kill -9 from outside at random times, while records come in.
pub(crate) fn from_outside(stage: &Stage) -> Checked<String> {
    let mut site = Site::new(stage, "kill-outside", plan(stage, 1, 12_000));
    site.recsae.clone_from(&stage.plain);
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed);
    let mut kills = 0;
    std::thread::scope(|scope| -> Checked<()> {
        let feed = scope.spawn(|| site.produce(0..12_000, Duration::from_millis(40)));
        while !feed.is_finished() || kills < 5 {
            let mut monitor = site.start(&[], "");
            monitor.wait_ready(Duration::from_secs(60))?;
            std::thread::sleep(Duration::from_millis(rng.random_range(0..900)));
            monitor.kill()?;
            kills += 1;
        }
        feed.join().map_err(|_| "the feed panicked".to_owned())?
    })?;
    let verdict = settle(stage, &site, site.start(&[], ""))?;
    Ok(format!("{kills} kills, {} records, {} windows, {} cells equal", verdict.records, verdict.windows, verdict.cells))
}
