//! Apache Kafka for the tests: started on free ports in a folder of its own, gone when the test process is.
//!
//! `shared()` is one broker for all tests of this binary (three seconds once). Topics are named by
//! `Kafka::topic`, so that tests do not meet. It has a plain listener, a SASL_SSL one (SCRAM), with
//! a certificate authority made here by openssl, and one whose clients go through a relay.

#![allow(dead_code, reason = "each test uses its own part of it")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use recsae::config::settings::KafkaSettings;
use recsae::kafka::admin;

use crate::support;

/// Name of the one SCRAM user.
pub(crate) const USER: &str = "recsae";
/// Its password.
pub(crate) const PASSWORD: &str = "spare the evidence";

const STORE_PASSWORD: &str = "keystore";

/// A running broker.
pub(crate) struct Kafka {
    /// Its supervisor, a shell that kills the broker and removes the folder once its input ends:
    /// when this struct is dropped, or when the test process is no more.
    supervisor: Child,
    folder: PathBuf,
    /// `host:port`, plain.
    pub(crate) brokers: String,
    /// `host:port`, SASL_SSL.
    pub(crate) sasl_brokers: String,
    /// `host:port` where a third listener hears, plain, and the one that it sends its clients to: a test's relay is there.
    pub(crate) relayed: String,
    pub(crate) relay: String,
}

/// The broker of this test process; `None` after saying so when Kafka or Java is missing.
pub(crate) fn shared() -> Option<&'static Kafka> {
    static SHARED: OnceLock<Option<Kafka>> = OnceLock::new();
    let kafka = SHARED.get_or_init(Kafka::start).as_ref();
    if kafka.is_none() {
        support::skip("no Apache Kafka (make setup)");
    }
    kafka
}

impl Kafka {
    /// Starts a broker of one's own, to be stopped or killed.
    pub(crate) fn start() -> Option<Self> {
        let jars = support::cache().join("kafka-4.3.1/jars");
        if !jars.is_dir() || support::program("java").is_none() || support::program("openssl").is_none() {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("recsae-kafka-").tempdir().unwrap().keep();
        certificates(&folder);
        let ports = free_ports();
        fs::write(folder.join("server.properties"), properties(&folder, ports)).unwrap();
        let classpath = format!("{}/*", jars.display());
        let scram = format!("SCRAM-SHA-256=[name={USER},password={PASSWORD}]");
        let format = Command::new("java")
            .args(["-XX:TieredStopAtLevel=1", "-cp", &classpath, "kafka.tools.StorageTool", "format", "--standalone"])
            .args(["-t", "cmVjc2FlLXRlc3QtYnJva2Vy", "--add-scram", &scram, "-c"])
            .arg(folder.join("server.properties"))
            .output()
            .unwrap();
        assert!(format.status.success(), "{}", String::from_utf8_lossy(&format.stderr));
        let supervisor = supervise(&folder, &classpath);
        let [brokers, sasl_brokers, _, relayed, relay] = ports.map(|port| format!("127.0.0.1:{port}"));
        let kafka = Self { supervisor, folder, brokers, sasl_brokers, relayed, relay };
        kafka.wait_until_up();
        Some(kafka)
    }

    /// Settings of a monitor that reads `topics` in a group of its own.
    pub(crate) fn settings(&self, topics: &[&str]) -> KafkaSettings {
        KafkaSettings {
            brokers: self.brokers.clone(),
            group: unique("group"),
            topics: topics.iter().map(ToString::to_string).collect(),
            dead_letter_topic: String::new(),
            ..KafkaSettings::default()
        }
    }

    /// Settings that log in over TLS.
    pub(crate) fn sasl_settings(&self, topics: &[&str]) -> KafkaSettings {
        let mut settings = KafkaSettings { brokers: self.sasl_brokers.clone(), ..self.settings(topics) };
        for (key, value) in [
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", "SCRAM-SHA-256"),
            ("sasl.username", USER),
            ("sasl.password", PASSWORD),
            ("ssl.ca.location", self.authority().to_str().unwrap()),
        ] {
            settings.librdkafka.insert(key.into(), value.into());
        }
        settings
    }

    /// PEM file of the authority that signed the broker's certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// PEM file of an authority that did not.
    pub(crate) fn other_authority(&self) -> PathBuf {
        self.folder.join("other-ca.pem")
    }

    /// Creates a topic that no other test has and that keeps its records for ever.
    pub(crate) fn topic(&self, name: &str, partitions: i32) -> String {
        let topic = unique(name);
        self.create(&topic, partitions);
        topic
    }

    /// Creates a topic of this very name.
    pub(crate) fn create(&self, topic: &str, partitions: i32) {
        let created = admin::create_topic(&self.settings(&[]), topic, partitions, Duration::from_secs(30)).unwrap();
        assert!(created, "{topic} was there");
    }

    /// Deletes a topic and makes it again under its name.
    pub(crate) fn make_anew(&self, topic: &str, partitions: i32) {
        let client: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(client.delete_topics(&[topic], &AdminOptions::new())).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        // Deletion is done a little after it is acknowledged.
        while !admin::create_topic(&self.settings(&[]), topic, partitions, Duration::from_secs(30)).unwrap_or(false) {
            assert!(Instant::now() < deadline, "{topic} is not gone");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Changes a topic's configuration: `max.message.bytes`, ...
    pub(crate) fn configure(&self, topic: &str, key: &str, value: &str) {
        self.configure_as(topic, &[(key, value)]);
    }

    /// The same for several keys: whatever else was set is the broker's default afterwards.
    pub(crate) fn configure_as(&self, topic: &str, values: &[(&str, &str)]) {
        let client: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        let change = values.iter().fold(AlterConfig::new(ResourceSpecifier::Topic(topic)), |change, (key, value)| change.set(key, value));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let changed = runtime.block_on(client.alter_configs([&change], &AdminOptions::new())).unwrap();
        assert!(changed.iter().all(Result::is_ok), "{changed:?}");
    }

    /// First offset each partition of `topic` still has and first it does not have yet.
    pub(crate) fn ends(&self, topic: &str, partitions: i32) -> Vec<(i64, i64)> {
        let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        (0..partitions).map(|partition| client.fetch_watermarks(topic, partition, Duration::from_secs(20)).unwrap()).collect()
    }

    /// Deletes what lies before an offset, as retention does.
    pub(crate) fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        let client: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(client.delete_records(&list, &AdminOptions::new())).unwrap();
    }

    /// The broker's log, for a failing test.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("kafka.log")).unwrap_or_default()
    }

    /// Kills it (`KILL`), freezes and thaws it (`STOP`, `CONT`), or starts it again over its data (`START`).
    pub(crate) fn order(&mut self, order: &str) {
        writeln!(self.supervisor.stdin.as_mut().unwrap(), "{order}").unwrap();
        let mut answer = [0; 5];
        self.supervisor.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
    }

    /// Waits until it answers.
    pub(crate) fn wait_until_up(&self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while let Err(error) = admin::inspect(&self.settings(&[]), Duration::from_secs(2)) {
            assert!(Instant::now() < deadline, "Kafka is not up: {error}\n{}", self.log());
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        // Closes its input: the supervisor kills the broker and removes the folder.
        drop(self.supervisor.wait());
    }
}

/// A name no other test of any process has.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Ports that were free a moment ago.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    // Held together, so that they differ.
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    std::array::from_fn(|index| listeners[index].local_addr().unwrap().port())
}

fn supervise(folder: &Path, classpath: &str) -> Child {
    let script = r#"run() {
    java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$1" kafka.Kafka "$2/server.properties" >>"$2/kafka.log" 2>&1 </dev/null &
    broker=$!
}
run "$1" "$2"
while read -r order; do
    case $order in
        START) run "$1" "$2" ;;
        *) kill "-$order" "$broker"; [ "$order" != KILL ] || wait "$broker" ;;
    esac
    echo done
done
kill -9 "$broker"
wait "$broker"
rm -rf "$2""#;
    Command::new("sh")
        .args(["-c", script, "supervisor", classpath])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn properties(folder: &Path, [plain, sasl, controller, relayed, relay]: [u16; 5]) -> String {
    let folder = folder.display();
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{sasl},RELAYED://127.0.0.1:{relayed},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{sasl},RELAYED://127.0.0.1:{relay}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,RELAYED:PLAINTEXT,SASL_SSL:SASL_SSL
log.dirs={folder}/data
auto.create.topics.enable=false
log.cleaner.backoff.ms=500
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.consumer.min.session.timeout.ms=6000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=1000
group.consumer.heartbeat.interval.ms=1000
sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PKCS12
ssl.keystore.location={folder}/broker.p12
ssl.keystore.password={STORE_PASSWORD}
"
    )
}

/// An authority, a broker's certificate signed by it, and an authority that has signed nothing.
fn certificates(folder: &Path) {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    for (name, subject) in [("ca", "/CN=recsae test authority"), ("other-ca", "/CN=another authority")] {
        let (pem, secret) = (format!("{name}.pem"), format!("{name}.key"));
        openssl(&[&["req", "-x509"], &key[..], &["-days", "2", "-subj", subject, "-keyout", &secret, "-out", &pem]].concat());
    }
    openssl(&[&["req"], &key[..], &["-subj", "/CN=127.0.0.1", "-keyout", "broker.key", "-out", "broker.csr"]].concat());
    fs::File::create(folder.join("san")).unwrap().write_all(b"subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "broker.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "san",
        "-out",
        "broker.pem",
    ]);
    let password = format!("pass:{STORE_PASSWORD}");
    openssl(&[
        "pkcs12",
        "-export",
        "-in",
        "broker.pem",
        "-inkey",
        "broker.key",
        "-certfile",
        "ca.pem",
        "-name",
        "broker",
        "-out",
        "broker.p12",
        "-passout",
        &password,
    ]);
}
