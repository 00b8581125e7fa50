//! Row 7: a broker that refuses commits while partitions move. Codes like these come when they like, so they are injected, and
//! the broker is librdkafka's mock of one; everything else goes to Apache Kafka.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use recsae::config::settings::KafkaSettings;
use recsae::kafka::embedded::EmbeddedBroker;

use crate::kafka_server::unique;
use crate::monitor::{Checked, Monitor};
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::verdict::settle;

/// Commits are refused when partitions go to another member and when they come back: no stall, and nothing is lost.
pub(crate) fn refused(stage: &Stage) -> Checked<String> {
    let broker = EmbeddedBroker::start().map_err(|error| error.to_string())?;
    let plan = plan(stage, 55, 6_000);
    let (topic, dead) = (unique("commits"), unique("commits-dead"));
    for (topic, partitions) in [(&topic, plan.n_partitions), (&dead, 1)] {
        broker.create_topic(topic, partitions).map_err(|error| error.to_string())?;
    }
    let kafka = KafkaSettings {
        brokers: broker.brokers(),
        group: unique("group"),
        topics: vec![topic.clone()],
        dead_letter_topic: dead,
        workers: 2,
        ..KafkaSettings::default()
    };
    let site = Site::over(stage, kafka, "commits", topic, plan);
    let debug = [("RUST_LOG", OsStr::new("info,recsae=debug"))];
    let mut first = site.start_as(&site.recsae, "recsae", &site.settings, &[], &debug);
    first.wait_ready(Duration::from_secs(60))?;
    let mut slowest = Duration::ZERO;
    let mut stored = |monitor: &mut Monitor, n: i64| -> Checked<()> {
        let began = Instant::now();
        let look = |_: &Monitor| (crate::kills::stored(&site)? >= n).then_some(());
        monitor.wait_for(Duration::from_secs(60), "what was sent is stored", look)?;
        slowest = slowest.max(began.elapsed());
        Ok(())
    };
    site.produce(0..2_000, Duration::from_millis(20))?;
    stored(&mut first, 2_000)?;
    broker.refuse_commits();
    let mut settings = site.settings.clone();
    settings.kafka.workers = 1;
    settings.store.path = site.folder.path().join("other.db");
    let mut other = site.start_as(&site.recsae, "other", &settings, &[], &debug);
    other.wait_for(Duration::from_secs(60), "it has taken partitions", assigned(1.0))?;
    broker.refuse_commits();
    site.produce(2_000..4_000, Duration::from_millis(20))?;
    other.end(Duration::from_secs(30))?;
    first.wait_for(Duration::from_secs(60), "every partition is back", assigned(4.0))?;
    site.produce(4_000..6_000, Duration::from_millis(20))?;
    stored(&mut first, 6_000)?;
    let refused = first.process.printed().matches("commit refused").count();
    let verdict = settle(stage, &site, first)?;
    if refused == 0 {
        return Err("no commit was seen to be refused".into());
    }
    Ok(format!("{refused} commits refused; all stored {slowest:.1?} after it was sent at most; {}", verdict.words()))
}

fn assigned(n: f64) -> impl Fn(&Monitor) -> Option<()> {
    move |m| m.scrape().filter(|scrape| scrape.get("recsae_assigned_partitions") >= n).map(drop)
}
