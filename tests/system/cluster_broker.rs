//! A broker that dies under a cluster, partitions that nobody writes to, and what the broker says of the group.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, TopicPartitionList};
use recsae::config::settings::KafkaSettings;
use serde_json::{Value, json};

use crate::background::until;
use crate::kafka_server::Kafka;
use crate::support;
use crate::together::{assert_as_alone, end_together, member, newest, scene, topics, wait_until_judged};

const WINDOWS: u64 = 14;
const PARTITIONS: i32 = 4;
/// Partitions of a topic that nobody writes to.
const SILENT: i32 = 3;
const IDLE_AFTER: Duration = Duration::from_secs(6);

/// Says that it is over when dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The group's committed offsets by topic and partition, as far as there are any.
fn committed(consumer: &BaseConsumer, partitions: &[(String, i32)]) -> Option<BTreeMap<(String, i32), i64>> {
    let mut list = TopicPartitionList::new();
    partitions.iter().for_each(|(topic, count)| list.add_partition_range(topic, 0, count - 1));
    let found = consumer.committed_offsets(list, Duration::from_secs(2)).ok()?;
    let offset = |entry: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
        Some(((entry.topic().to_owned(), entry.partition()), entry.offset().to_raw().filter(|offset| *offset >= 0)?))
    };
    Some(found.elements().iter().filter_map(offset).collect())
}

/// Looks at the committed offsets until it is over: how often, and none may ever go back.
fn watch(kafka: &KafkaSettings, partitions: &[(String, i32)], is_over: &AtomicBool) -> usize {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", &kafka.brokers).set("group.id", &kafka.group).create().unwrap();
    let (mut last, mut looks) = (BTreeMap::new(), 0);
    while !is_over.load(Ordering::SeqCst) {
        if let Some(found) = committed(&consumer, partitions) {
            for (at, offset) in &last {
                assert!(found.get(at).is_some_and(|now| now >= offset), "{at:?} was at {offset}, is at {:?}", found.get(at));
            }
            (last, looks) = (found, looks + 1);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    looks
}

/// What the broker says of a group: its state, the partitions of its members, and the committed offsets.
fn described(kafka: &KafkaSettings) -> Option<Value> {
    let script = "import json, sys; from confluent_kafka import ConsumerGroupTopicPartitions as Of
from confluent_kafka.admin import AdminClient
admin, group = AdminClient({'bootstrap.servers': sys.argv[1]}), sys.argv[2]
told = admin.describe_consumer_groups([group])[group].result(20)
offsets = admin.list_consumer_group_offsets([Of(group)])[group].result(20).topic_partitions
owned = [[at.topic, at.partition] for member in told.members for at in member.assignment.topic_partitions]
print(json.dumps({'state': told.state.name, 'members': len(told.members), 'owned': sorted(owned),
                  'offsets': [[at.topic, at.partition, at.offset] for at in offsets]}))";
    let output = Command::new(support::python()?).args(["-c", script, &kafka.brokers, &kafka.group]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn a_broker_that_dies_loses_nothing_idle_partitions_hold_nobody_and_offsets_are_positions() {
    if support::python().is_none() {
        return;
    }
    let Some(mut kafka) = Kafka::start() else { return support::skip("no Apache Kafka (make setup)") };
    let Some(mut scene) = scene(&kafka, PARTITIONS) else { return };
    let (read, silent) = (scene.settings.kafka.topics[0].clone(), kafka.topic("silent", SILENT));
    scene.settings.kafka.topics.push(silent.clone());
    scene.settings.window.idle_after = IDLE_AFTER;
    let (topics, began) = (topics(&kafka), Instant::now());
    let settings = ["a", "b"].map(|name| member(&scene, &topics, name));
    let alone = scene.start_beside(&scene.settings);
    let running = settings.each_ref().map(|settings| scene.start_beside(settings));
    let last = i64::try_from(WINDOWS).unwrap() - 1;
    let is_over = AtomicBool::new(false);
    let partitions = [(read.clone(), PARTITIONS), (silent.clone(), SILENT)];
    let looks = std::thread::scope(|scope| {
        // Whatever fails, who looks must end: the scope waits for it.
        let over = Over(&is_over);
        let looks = scope.spawn(|| watch(&settings[0].kafka, &partitions, &is_over));
        let sender = scope.spawn(|| scene.produce(0..WINDOWS, Duration::from_millis(60)));
        // Nobody writes to three partitions: nothing is judged before they count as idle.
        wait_until_judged(&scene, &running[0], 1);
        let (away, before) = (Instant::now(), newest(&scene, &running[0]));
        assert!(!sender.is_finished(), "it is to die while records come");
        kafka.order("KILL");
        // For longer than partitions without records take to count as idle.
        let is_over_idle = || (away.elapsed() > IDLE_AFTER + Duration::from_secs(3)).then_some(());
        until(Duration::from_secs(20), is_over_idle, String::new);
        for monitor in running.iter().chain([&alone]) {
            assert!(monitor.api("status").is_some_and(|status| status["ready"] == false), "{:#?}", monitor.api("status"));
        }
        kafka.order("START");
        kafka.wait_until_up();
        let back = Instant::now();
        wait_until_judged(&scene, &running[1], before.unwrap() + 2);
        println!("away for {:.1?} from window {before:?} on, judged on {:.1?} after it was back", back - away, back.elapsed());
        assert!(back.elapsed() < Duration::from_secs(30));
        sender.join().unwrap();
        // The last window closes although no record follows it: all partitions are idle, those of the other instance too.
        running.iter().chain([&alone]).for_each(|monitor| wait_until_judged(&scene, monitor, last));
        drop(over);
        looks.join().unwrap()
    });
    println!("{looks} looks at the committed offsets, none went back");
    assert!(looks > 20);
    for monitor in running.iter().chain([&alone]) {
        let scrape = monitor.scrape().unwrap();
        assert_eq!(scrape.rejected.get("late"), None, "{scrape:?}");
    }
    assert_eq!(running.each_ref().map(|monitor| monitor.metric("recsae_unequal_parts_total")), [Some(0.0); 2]);

    // What tools for lag show: every partition has one owner, and all that the log holds is committed.
    let ends = kafka.ends(&read, PARTITIONS);
    let expected: Vec<(i32, i64)> = (0..).zip(ends).map(|(partition, (_, end))| (partition, end)).collect();
    let is_caught_up = || {
        let told = described(&settings[0].kafka)?;
        let mut offsets: Vec<(String, i32, i64)> = serde_json::from_value(told["offsets"].clone()).unwrap();
        offsets.retain(|(topic, _, offset)| *topic == read && *offset >= 0);
        offsets.sort_unstable();
        let offsets: Vec<(i32, i64)> = offsets.into_iter().map(|(_, partition, offset)| (partition, offset)).collect();
        (offsets == expected).then_some(told)
    };
    let told = until(Duration::from_secs(30), is_caught_up, || format!("{expected:?}\n{:?}", described(&settings[0].kafka)));
    println!("{told}");
    let all = partitions.iter().flat_map(|(topic, count)| (0..*count).map(move |partition| json!([topic, partition])));
    let mut owned: Vec<Value> = all.collect();
    owned.sort_by_key(ToString::to_string);
    assert_eq!((&told["state"], &told["members"], &told["owned"]), (&"STABLE".into(), &4.into(), &owned.into()));
    println!("{:.1?}", began.elapsed());
    alone.end();
    let members: Vec<_> = settings.iter().map(|settings| settings.store.path.as_path()).zip(end_together(running)).collect();
    assert_as_alone(&scene.settings.store.path, &members);
}
