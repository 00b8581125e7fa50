//! `recsae check`: everything that can be wrong before a start, each as one line.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::bundle::Bundle;
use crate::cli::check_sample::{SampledFinding, absent_field, suggest};
use crate::cli::startable::{folder_of, writable};
use crate::cli::{Outcome, UsageError};
use crate::config::load_leniently;
use crate::config::parsed::ReferenceChoice;
use crate::config::settings::{CountingUnit, EngineChoice, Settings};
use crate::decode::Decoder;
use crate::encode::{self, Engine};
use crate::http::actions::Token;
use crate::http::tls;
use crate::kafka::admin::{Cluster, preflight};
use crate::kafka::dead_letter;
use crate::kafka::sample::{SampledRecord, newest};
use crate::monitor::assemble::MAX_SPLIT;
use crate::monitor::cluster::join::look_at_topics;
use crate::monitor::models::{label_of, same_label, unknown_reference_model};
use crate::record::{Record, TopicPartition};
use crate::sae::embedding::EmbeddingBatch;
use crate::store::StoreReader;
use crate::telemetry;

/// Longest wait for the broker.
const PATIENCE: Duration = Duration::from_secs(10);
/// Records a partition that the share of split entities is measured on; fewer see fewer pairs.
const RECORDS_FOR_SPLIT: i64 = 2_000;
/// Records that are shown.
const SHOWN: usize = 10;
/// Fewer entities than this measure no share of 1 %.
const ENTITIES_FOR_SPLIT: usize = 50;

/// Arguments of `recsae check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae check -c recsae.toml             # before a start: exit 1 if anything is wrong
  recsae check -c recsae.toml --sample    # what is found in ten records, and which configuration would fit")]
pub struct Args {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Ask no broker
    #[arg(long, conflicts_with = "sample")]
    offline: bool,
    /// Decode ten records and show what was found where
    #[arg(long)]
    sample: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Everything that was looked at.
#[derive(Debug, Default, Serialize)]
struct Report {
    passed: Vec<String>,
    faults: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sample: Vec<SampledFinding>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    would_fit: BTreeMap<String, String>,
}

impl Report {
    fn note<T, E: std::fmt::Display>(&mut self, what: &str, result: Result<T, E>, passed: impl FnOnce(&T) -> String) -> Option<T> {
        match result {
            Ok(value) => {
                self.passed.push(format!("{what}: {}", passed(&value)));
                Some(value)
            }
            Err(error) => {
                self.fault(format!("{what}: {error}"));
                None
            }
        }
    }

    fn fault(&mut self, line: String) {
        // One line a fault, whatever an error's own words look like.
        self.faults.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

/// Looks at everything and prints it.
///
/// # Errors
/// The file cannot be read, or standard output is closed.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    telemetry::start("error");
    let (settings, config_faults) = load_leniently(&args.config, std::env::vars()).map_err(|error| UsageError(error.to_string()))?;
    let mut report = Report::default();
    config_faults.iter().for_each(|fault| report.fault(format!("configuration: {fault}")));
    if config_faults.is_empty() {
        report.passed.push(format!("configuration: {}", args.config.display()));
    }
    let widths = bundles(&settings, &mut report);
    files(&settings, &mut report);
    // The salt only has to be the same for all records looked at.
    let decoder = Decoder::new(&settings.record, &settings.segments.fields, &[0; 16]);
    let decoder = report.note("record", decoder, |_| "places fit together".into());
    crate::kafka::settings::faults(&settings.kafka).iter().for_each(|fault| report.fault(format!("kafka: {fault}")));
    if !args.offline
        && let Some(cluster) = broker(&settings, &mut report)
    {
        records(&settings, &cluster, decoder, &widths, args.sample, &mut report);
    }
    print(&report, args.json)?;
    Ok(if report.faults.is_empty() { Outcome::Done } else { Outcome::No })
}

/// Opens every bundle and runs its golden rows; widths of the embeddings the SAEs read.
fn bundles(settings: &Settings, report: &mut Report) -> Vec<usize> {
    let engine = match settings.encode.engine {
        EngineChoice::Auto => Engine::Auto,
        EngineChoice::Onnxruntime => Engine::OnnxRuntime,
        EngineChoice::Native => Engine::Native,
    };
    let library = settings.encode.onnxruntime.as_deref();
    let (mut widths, mut labels) = (Vec::new(), Vec::<(usize, String)>::new());
    for (at, model) in settings.model.iter().enumerate() {
        let what = format!("bundle {}", model.bundle.display());
        let described = |bundle: &Bundle| {
            let spec = bundle.spec();
            format!("{} -> {} latents, {}, fingerprint {}", spec.d_in, spec.d_sae, spec.selection, bundle.fingerprint())
        };
        let Some(bundle) = report.note(&what, Bundle::open(&model.bundle), described) else { continue };
        widths.push(bundle.spec().d_in.get());
        let label = label_of(model.version.as_deref(), &bundle);
        if let Some((other, _)) = labels.iter().find(|(_, known)| *known == label) {
            report.fault(same_label(settings, *other, at, &label).to_string());
        }
        labels.push((at, label));
        let rows = bundle.golden().embedding.nrows();
        report.note(&what, encode::open(&bundle, engine, library), |encoder| format!("{rows} golden rows met by {}", encoder.engine()));
    }
    let labels: Vec<String> = labels.into_iter().map(|(_, label)| label).collect();
    // A bundle that was refused has no label here.
    if labels.len() == settings.model.len()
        && let Some(fault) = unknown_reference_model(settings, &labels)
    {
        report.fault(fault.to_string());
    }
    widths
}

/// The state folder, the store in it, and the files of keys.
fn files(settings: &Settings, report: &mut Report) {
    let path = &settings.store.path;
    let folder = folder_of(path);
    let what = format!("state folder {}", folder.display());
    report.note(&what, writable(folder), |()| "writable".into());
    let what = format!("store {}", path.display());
    let store = path.exists().then(|| report.note(&what, StoreReader::open(path), |_| "opens".into())).flatten();
    named_reference(settings, store.as_ref(), report);
    let http = &settings.http;
    if let Some(file) = &http.token_file {
        report.note(&format!("token file {}", file.display()), Token::from_file(file), |_| "readable".into());
    }
    if let (Some(cert), Some(key)) = (&http.tls_cert_file, &http.tls_key_file) {
        match tls::acceptor(cert, key) {
            Ok(_) => report.passed.push(format!("certificate {}: belongs to its key", cert.display())),
            Err(error) => report.fault(format!("{}: {error}", error.key())),
        }
    }
}

/// A named reference that is not there yet is waited for without a verdict: better known before the start.
fn named_reference(settings: &Settings, store: Option<&StoreReader>, report: &mut Report) {
    let Ok(ReferenceChoice::Named(name)) = settings.drift.reference_choice() else { return };
    let entries = store.map_or(Ok(Vec::new()), StoreReader::references).unwrap_or_default();
    match entries.iter().find(|entry| entry.name == name) {
        Some(entry) if entry.approval.is_some() => report.passed.push(format!("reference {name:?}: approved, {} windows", entry.windows)),
        Some(_) => report.fault(format!("drift.reference: {name:?} is not approved: recsae reference approve {name}")),
        None => {
            let known: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
            let known = if known.is_empty() { "no reference".to_owned() } else { known.join(", ") };
            report
                .fault(format!("drift.reference: {name:?} is not in the store, which holds {known}: recsae reference build, or first:14d"));
        }
    }
}

fn broker(settings: &Settings, report: &mut Report) -> Option<Cluster> {
    let kafka = &settings.kafka;
    let described = |cluster: &Cluster| format!("{} partitions of {}", cluster.partitions.len(), kafka.topics.join(", "));
    let cluster = report.note(&format!("broker {}", kafka.brokers), preflight(kafka, PATIENCE), described)?;
    let dead_letters = &kafka.dead_letter_topic;
    if !dead_letters.is_empty() && !cluster.topics.iter().any(|(name, _)| name == dead_letters) {
        report.fault(dead_letter::missing(dead_letters).to_string());
    }
    if settings.cluster.enabled {
        let shared = &settings.cluster;
        match look_at_topics(settings) {
            Ok(topics) => report.passed.push(format!(
                "cluster: {} of {} partitions, {} of one",
                shared.windows_topic, topics.windows.partitions, shared.judge_topic
            )),
            Err(faults) => faults.into_iter().for_each(|fault| report.fault(fault)),
        }
    }
    Some(cluster)
}

/// Reads the newest records: is the group usable, is the topic keyed by the entity, and what is in them.
fn records(settings: &Settings, cluster: &Cluster, decoder: Option<Decoder>, widths: &[usize], show: bool, report: &mut Report) {
    let by_entity = settings.counting.unit != CountingUnit::Records;
    let n = if by_entity || !settings.segments.fields.is_empty() { RECORDS_FOR_SPLIT } else { SHOWN.try_into().unwrap_or(i64::MAX) };
    let what = format!("group {}", settings.kafka.group);
    let read = newest(&settings.kafka, &cluster.partitions, n, PATIENCE);
    let Some(records) = report.note(&what, read, |records| format!("{} records read beside it", records.len())) else { return };
    let Some(mut decoder) = decoder else { return };
    if by_entity {
        entities_split(&records, &mut decoder, report);
    }
    if show {
        let shown = spread(&records);
        report.sample = shown.iter().map(|record| look(record, &mut decoder, settings, widths)).collect();
        if report.sample.iter().any(|finding| !finding.accepted) {
            report.would_fit = suggest(&records, widths.first().copied());
        }
        for field in absent(&records, &mut decoder, settings) {
            report.fault(absent_field(&field, &records));
        }
        if records.is_empty() {
            report.fault("sample: the topics hold no records".into());
        } else if report.sample.iter().all(|finding| !finding.accepted) {
            report.fault("sample: not one of the records would be counted".into());
        }
    }
}

fn entities_split(records: &[SampledRecord], decoder: &mut Decoder, report: &mut Report) {
    let mut seen: HashMap<u64, (&TopicPartition, bool)> = HashMap::new();
    let mut scratch = Record::default();
    for record in records {
        let headers = record.borrowed_headers();
        if decoder.decode(&record.as_message(&headers), &mut scratch).is_ok()
            && let Some(entity) = scratch.entity
        {
            let entry = seen.entry(entity).or_insert((&record.partition, false));
            entry.1 |= *entry.0 != record.partition;
        }
    }
    let split = seen.values().filter(|(_, split)| *split).count();
    let share = split as f64 / seen.len().max(1) as f64;
    if seen.len() >= ENTITIES_FOR_SPLIT && share > MAX_SPLIT {
        report.fault(format!(
            "counting.unit: {:.1} % of {} entities are on more than one partition, above {:.0} %: key the topic by the entity, or set \
             [counting] unit = \"kish\" or \"records\"",
            100.0 * share,
            seen.len(),
            100.0 * MAX_SPLIT
        ));
    } else {
        report.passed.push(format!("entities: {split} of {} on more than one partition", seen.len()));
    }
}

/// At most ten records, from all partitions in turn, the newest first.
fn spread(records: &[SampledRecord]) -> Vec<&SampledRecord> {
    let mut by_partition: BTreeMap<&TopicPartition, Vec<&SampledRecord>> = BTreeMap::new();
    records.iter().for_each(|record| by_partition.entry(&record.partition).or_default().push(record));
    let mut shown = Vec::new();
    while shown.len() < SHOWN {
        let before = shown.len();
        shown.extend(by_partition.values_mut().filter_map(Vec::pop));
        if shown.len() == before {
            break;
        }
    }
    shown.truncate(SHOWN);
    shown
}

fn look(record: &SampledRecord, decoder: &mut Decoder, settings: &Settings, widths: &[usize]) -> SampledFinding {
    let at = format!("{}@{}", record.partition, record.offset);
    let headers = record.borrowed_headers();
    let mut scratch = Record::default();
    if let Err(reject) = decoder.decode(&record.as_message(&headers), &mut scratch) {
        return SampledFinding { at, found: format!("rejected, {reject}"), accepted: false };
    }
    let width = scratch.embedding.len();
    let fits = |d_in: &usize| {
        let d_in = std::num::NonZeroUsize::new(*d_in)?;
        EmbeddingBatch::new(d_in).push(&scratch.embedding).ok()
    };
    if !widths.is_empty() && !widths.iter().any(|width| fits(width).is_some()) {
        let found = if widths.contains(&width) {
            "rejected, not_finite: the vector holds a value that is not finite".to_owned()
        } else {
            format!("rejected, wrong_width: the vector has {width} values, the SAE reads {widths:?}")
        };
        return SampledFinding { at, found, accepted: false };
    }
    let time = jiff::Timestamp::from_millisecond(scratch.event_time_ms).map_or_else(|_| "?".to_owned(), |time| time.to_string());
    let entity = if scratch.entity.is_some() { "entity" } else { "no entity" };
    let version = if scratch.model_version.is_empty() { "no version".to_owned() } else { format!("version {}", scratch.model_version) };
    let fields = settings.segments.fields.iter().zip(&scratch.fields);
    let fields: Vec<String> = fields.map(|(name, value)| format!("{name}={}", if value.is_empty() { "(absent)" } else { value })).collect();
    let accepted = scratch.entity.is_some() || settings.counting.unit == CountingUnit::Records;
    let items = scratch.items.len();
    let found = format!(
        "{width} values, {entity}, {time}, {version}, {items} items{}{}",
        if fields.is_empty() { "" } else { ", " },
        fields.join(", ")
    );
    SampledFinding { at, found, accepted }
}

/// Fields of `segments.fields` that none of the records has which can be read.
fn absent(records: &[SampledRecord], decoder: &mut Decoder, settings: &Settings) -> Vec<String> {
    let fields = &settings.segments.fields;
    let mut is_absent = vec![true; fields.len()];
    let (mut scratch, mut n_read) = (Record::default(), 0);
    for record in records {
        let headers = record.borrowed_headers();
        if decoder.decode(&record.as_message(&headers), &mut scratch).is_ok() {
            n_read += 1;
            is_absent.iter_mut().zip(&scratch.fields).for_each(|(absent, value)| *absent &= value.is_empty());
        }
    }
    let named = fields.iter().zip(is_absent).filter(|(_, absent)| *absent && n_read > 0);
    named.map(|(name, _)| name.clone()).collect()
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
        return Ok(());
    }
    report.passed.iter().try_for_each(|line| writeln!(out, "ok     {line}"))?;
    report.sample.iter().try_for_each(|finding| writeln!(out, "sample {}: {}", finding.at, finding.found))?;
    report.faults.iter().try_for_each(|line| writeln!(out, "FAULT  {line}"))?;
    if !report.would_fit.is_empty() {
        writeln!(out, "this would fit:")?;
        report.would_fit.iter().try_for_each(|(key, value)| writeln!(out, "  {key} = {value}"))?;
    }
    match report.faults.len() {
        0 => writeln!(out, "nothing wrong was found")?,
        1 => writeln!(out, "1 fault")?,
        n => writeln!(out, "{n} faults")?,
    }
    Ok(())
}
