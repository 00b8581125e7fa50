//! Several instances that judge as one over a site: their settings, and what each of them must hold in the end.
//!
//! `--until-end` is not for them, so nothing is drained: liveness records far behind the plan's end close every window of
//! it, and the windows of those records, which nobody judges, are held to nothing.

use std::time::{Duration, Instant};

use recsae::config::settings::Settings;
use recsae::store::StoreReader;

use crate::kafka_server::unique;
use crate::monitor::{Checked, Monitor};
use crate::site::Site;
use crate::stage::Stage;
use crate::verdict::{Verdict, compare_with, ends};
use crate::world::{LATENESS_MS, WINDOW_MS};

/// Longest until everything that was sent is judged by everybody.
const SETTLED: Duration = Duration::from_secs(90);

/// A member of the cluster of a site, by its settings.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) settings: Settings,
}

/// Makes the site's instances those of a cluster, over two topics of its own.
pub(crate) fn join_together(stage: &Stage, site: &mut Site) {
    let cluster = &mut site.settings.cluster;
    cluster.enabled = true;
    cluster.windows_topic = unique("windows");
    cluster.judge_topic = unique("judge");
    stage.kafka.create(&cluster.windows_topic, 4);
    stage.kafka.configure(&cluster.windows_topic, "cleanup.policy", "compact");
    stage.kafka.create(&cluster.judge_topic, 1);
    site.settings.kafka.instance_id = String::new();
    site.settings.kafka.workers = 1;
}

impl Member {
    /// Instance `name` of the site's cluster, with a store of its own.
    pub(crate) fn new(site: &Site, name: &str) -> Self {
        let mut settings = site.settings.clone();
        settings.store.path = site.folder.path().join(format!("{name}.db"));
        Self { name: name.to_owned(), settings }
    }

    /// Starts it.
    pub(crate) fn start(&self, site: &Site, failpoints: &str) -> Monitor {
        site.start_as(&site.recsae, &self.name, &self.settings, &[], &[("FAILPOINTS", failpoints.as_ref())])
    }
}

/// Everything that was sent is judged by every running member, and equal to the oracle's counts in one store and to that
/// store in the others: counts, verdicts and what people did hang on one chain.
pub(crate) fn settle_together(stage: &Stage, site: &mut Site, running: Vec<(&Member, Monitor)>) -> Checked<Verdict> {
    let plan = &site.world.plan;
    let end_ms = plan.base_ms + i64::try_from(plan.n_windows).unwrap() * WINDOW_MS;
    // Beyond what may still come late: every window of the plan closes.
    site.liveness_ms = end_ms + LATENESS_MS + WINDOW_MS;
    site.produce_liveness()?;
    let ends = ends(site)?;
    let mut running = running;
    for (member, monitor) in &mut running {
        let is_settled = |_: &Monitor| {
            std::thread::sleep(Duration::from_millis(50));
            let reader = StoreReader::open(&member.settings.store.path).ok()?;
            let positions = reader.positions().ok()?;
            // Who reads where a partition stands has read all that was closed before it.
            let has_passed = |at: &i32, end: &i64| {
                positions.iter().any(|(of, now)| of.partition == *at && now.next_offset >= *end && now.watermark_ms >= site.liveness_ms)
            };
            (ends.iter().all(|(at, end)| has_passed(at, end)) && reader.oldest_unjudged().ok()?.is_none()).then_some(())
        };
        monitor.wait_for(SETTLED, "everything is judged", is_settled)?;
        let scrape = monitor.scrape().ok_or("no scrape")?;
        let bad = ["recsae_unequal_parts_total", "recsae_diverged"].map(|name| scrape.get(name));
        if bad != [0.0; 2] {
            return Err(format!("{}: unequal parts and diverged: {bad:?}\n{}", member.name, monitor.process.printed_tail()));
        }
    }
    let mut heads = Vec::new();
    for (member, monitor) in running {
        let (status, took) = monitor.end(Duration::from_secs(20))?;
        if status != 0 || took > Duration::from_secs(10) {
            return Err(format!("{}: SIGTERM: exit {status} after {took:?}", member.name));
        }
        let head = StoreReader::open(&member.settings.store.path).and_then(|reader| reader.audit_head());
        heads.push((member, head.map_err(|error| error.to_string())?));
    }
    if let Some((other, head)) = heads.iter().find(|(_, head)| *head != heads[0].1) {
        return Err(format!("{} ends at {head}, {} at {}", other.name, heads[0].0.name, heads[0].1));
    }
    site.settings = heads[0].0.settings.clone();
    let left_out = serde_json::json!({"before": i64::MIN, "incomplete": [], "until": end_ms});
    compare_with(stage, site, Some(&left_out.to_string()))
}

/// Waits for so long, looking at nothing.
pub(crate) fn let_pass(length: Duration, began: Instant) {
    std::thread::sleep(length.saturating_sub(began.elapsed()));
}
