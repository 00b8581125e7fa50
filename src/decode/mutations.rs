//! The quick reader beside the strict one on damaged records: same record, bit for bit, or same refusal.
//!
//! `make json-mutations` asks for 10^8 of them in a release build; an ordinary test run takes a share. The seed
//! is drawn anew and printed; `RECSAE_JSON_SEED` repeats one.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::settings::RecordSettings;
use crate::decode::planted::KINDS;
use crate::decode::sink::Sink;
use crate::decode::{Decoder, json, quick};
use crate::record::{RawMessage, Record, Reject, TopicPartition};

/// Mutations of an ordinary run: a second or two.
const FEW: u64 = 100_000;
/// What is put into a record somewhere: all that readers of JSON are known to disagree about.
const TOKENS: [&str; 48] = [
    "1e400",
    "-1e400",
    "1e-400",
    "-0",
    "-0.0",
    "0e5",
    "5e-324",
    "2.4703282292062328e-324",
    "2.2250738585072011e-308",
    "1.7976931348623157e308",
    "1.7976931348623159e308",
    "3.4028236e38",
    "1.1754943e-38",
    "0.1",
    "0.30000000000000004",
    "9007199254740993",
    "9007199254740992.5",
    "18446744073709551616",
    "-9223372036854775809",
    "123456789012345678901234567890",
    "0.1234567890123456789",
    "1.00000005960464477539062",
    "16777217",
    "01",
    "1.",
    ".5",
    "+1",
    "1e",
    "1E+2",
    "1e+",
    "0x10",
    "NaN",
    "-Infinity",
    "nan",
    "null",
    "true",
    "\"\\ud800\"",
    "\"\\u0065mbedding\":[1],",
    "\"embedding\":[1],",
    "\"user\":{\"id\":1},",
    "\u{feff}",
    "\u{0}",
    "\\",
    "\"",
    ",",
    "[",
    "}",
    "\"timestamp\":1e3,",
];

fn decoder() -> Decoder {
    let settings = RecordSettings { entity: "user.id".into(), ..RecordSettings::default() };
    Decoder::new(&settings, &["surface".into(), "user.country".into()], &[7; 16]).unwrap()
}

/// What the strict reader alone makes of a payload.
fn strict(decoder: &mut Decoder, message: &RawMessage<'_>, record: &mut Record) -> Result<(), Reject> {
    record.clear(decoder.layout.n_fields());
    let payload = decoder.payload(message)?;
    let mut sink = Sink::new(record, &decoder.hasher, &decoder.settings, &mut decoder.bytes);
    json::read(payload, decoder.layout.tree(), &mut sink)?;
    sink.finish(message)
}

/// Whether the quick reader answers without the strict one.
fn is_quick(decoder: &mut Decoder, payload: &[u8], record: &mut Record) -> bool {
    record.clear(decoder.layout.n_fields());
    let mut sink = Sink::new(record, &decoder.hasher, &decoder.settings, &mut decoder.bytes);
    quick::read(payload, decoder.layout.tree(), &mut sink)
}

fn same(a: &Record, b: &Record) -> bool {
    let bits = |record: &Record| record.embedding.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    (a.entity, a.event_time_ms, &a.model_version, &a.fields, &a.items) == (b.entity, b.event_time_ms, &b.model_version, &b.fields, &b.items)
        && bits(a) == bits(b)
}

/// A number as programs write them: short, of 17 digits, with an exponent, whole, or any bits of an f64.
fn number(rng: &mut ChaCha8Rng) -> String {
    match rng.random_range(0..8) {
        0 | 1 => rng.random_range(-3.0f32..3.0).to_string(),
        2 => f64::from(rng.random_range(-3.0f32..3.0)).to_string(),
        3 => rng.random_range(-3.0f64..3.0).to_string(),
        4 => format!("{:e}", rng.random_range(-3.0f32..3.0) * 10f32.powi(rng.random_range(-40..38))),
        5 => rng.random_range(-1_000_000i64..1_000_000_000_000).to_string(),
        6 => Some(f64::from_bits(rng.next_u64())).filter(|value| value.is_finite()).unwrap_or(0.5).to_string(),
        _ => format!("{:.*}", rng.random_range(0..22), rng.random_range(-2.0f64..2.0)),
    }
}

/// A record as a recommender writes it.
fn valid(rng: &mut ChaCha8Rng) -> String {
    let (comma, colon) = [(",", ":"), (", ", ": "), (" ,\n", " :\t")][rng.random_range(0..3)];
    let vector: Vec<String> = (0..rng.random_range(1..9)).map(|_| number(rng)).collect();
    let mut entries = vec![format!("\"embedding\"{colon}[{}]", vector.join(comma))];
    entries.push(format!("\"user\"{colon}{{\"id\"{colon}{}{comma}\"country\"{colon}\"DE\"}}", rng.random_range(0..100_000)));
    entries.push(format!("\"surface\"{colon}\"{}\"", ["home", "search", "späti", "a\\nb", ""][rng.random_range(0..5)]));
    entries.push(format!(
        "\"timestamp\"{colon}{}",
        ["1700000000", "1700000000123", "1.7e9", "\"2024-01-01T00:00:00Z\""][rng.random_range(0..4)]
    ));
    entries.push(format!("\"items\"{colon}[{}{comma}\"x\"]", rng.random_range(0..500)));
    entries.push(format!("\"other\"{colon}{{\"a\"{colon}[1{comma}{{\"b\"{colon}null}}{comma}{}]}}", number(rng)));
    entries.push(format!("\"model_version\"{colon}\"v{}\"", rng.random_range(0..3)));
    for at in (1..entries.len()).rev() {
        entries.swap(at, rng.random_range(0..=at));
    }
    entries.truncate(rng.random_range(1..=entries.len()));
    format!("{{{}}}", entries.join(comma))
}

/// One change or two: of a byte, of a stretch, of a number, by a token.
fn mutate(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.random_range(1..3) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..12)).min(bytes.len());
        match rng.random_range(0..12) {
            0 => drop(bytes.get_mut(at).map(|byte| *byte ^= 1 << rng.random_range(0..8))),
            1 => drop(bytes.get_mut(at).map(|byte| *byte = b"{}[]\",:.-+eE0123456789 \\ntfu"[rng.random_range(0..28)])),
            2 => drop(bytes.drain(at..end)),
            3 => bytes.truncate(at),
            4 => {
                let stretch = bytes[at..end].to_vec();
                let to = rng.random_range(0..=bytes.len());
                drop(bytes.splice(to..to, stretch));
            }
            5 | 6 => drop(bytes.splice(at..at, TOKENS[rng.random_range(0..TOKENS.len())].bytes())),
            _ => {
                // In the place of a number, where there is one from here on.
                let digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'.' | b'e' | b'E' | b'+');
                let Some(from) = bytes[at..].iter().position(digit).map(|from| at + from) else { continue };
                let to = bytes[from..].iter().position(|byte| !digit(byte)).map_or(bytes.len(), |length| from + length);
                let new = if rng.random_range(0..4) > 0 { number(rng) } else { TOKENS[rng.random_range(0..TOKENS.len())].to_owned() };
                drop(bytes.splice(from..to, new.bytes()));
            }
        }
    }
}

#[test]
fn damaged_records_are_read_alike_or_refused_alike() {
    let asked = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (n, seed) = (asked("RECSAE_JSON_MUTATIONS").unwrap_or(FEW), asked("RECSAE_JSON_SEED").unwrap_or_else(rand::random));
    println!("seed {seed}");
    let n_threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get) as u64;
    let total = Mutex::new(Seen::default());
    std::thread::scope(|scope| {
        for thread in 0..n_threads {
            let total = &total;
            scope.spawn(move || total.lock().unwrap().add(&compared(seed.wrapping_add(thread), n.div_ceil(n_threads))));
        }
    });
    let (seen, n) = (total.into_inner().unwrap(), n.div_ceil(n_threads) * n_threads);
    println!("{n} mutations: {} read quickly, {} refused, 0 differ", seen.n_quick, seen.n_refused);
    for (kind, [read, refused]) in KINDS.iter().zip(seen.kinds) {
        println!("  {}: {read} read, {refused} refused", kind.name);
        assert!((read > 0) >= kind.is_read && (refused > 0) >= kind.is_refused, "{} is met where it may stand", kind.name);
    }
    assert!(seen.n_quick > n / 10 && seen.n_refused > n / 10, "the mutations reach both readers");
}

/// What became of mutations.
#[derive(Default)]
struct Seen {
    n_quick: u64,
    n_refused: u64,
    /// Read and refused, of each kind, where nothing else was changed.
    kinds: [[u64; 2]; KINDS.len()],
}

impl Seen {
    fn add(&mut self, more: &Self) {
        self.n_quick += more.n_quick;
        self.n_refused += more.n_refused;
        self.kinds.as_flattened_mut().iter_mut().zip(more.kinds.as_flattened()).for_each(|(sum, n)| *sum += n);
    }
}

/// Compares both readers on `n` mutations, a fourth of them of the kinds that must be met.
fn compared(seed: u64, n: u64) -> Seen {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut decoder, mut ours, mut theirs) = (decoder(), Record::default(), Record::default());
    let partition = TopicPartition { topic: "t".into(), partition: 0 };
    let (mut bytes, mut record, mut seen) = (Vec::new(), String::new(), Seen::default());
    for at in 0..n {
        if at % 16 == 0 {
            record = valid(&mut rng);
        }
        let kind = (at % 4 == 3).then(|| rng.random_range(0..KINDS.len()));
        let mut is_alone = false;
        bytes.clear();
        match kind {
            Some(kind) => {
                bytes = (KINDS[kind].draw)(&mut rng);
                is_alone = rng.random();
            }
            None => bytes.extend_from_slice(record.as_bytes()),
        }
        if !is_alone {
            mutate(&mut rng, &mut bytes);
        }
        let message =
            RawMessage { partition: &partition, offset: 0, timestamp_ms: Some(1), key: None, payload: Some(&bytes), headers: &[] };
        let expected = strict(&mut decoder, &message, &mut theirs);
        let found = decoder.decode(&message, &mut ours);
        let alike = found == expected && (found.is_err() || same(&ours, &theirs));
        assert!(alike, "{}\nexpected {expected:?} {theirs:?}\nfound {found:?} {ours:?}", bytes.escape_ascii());
        if let Some(kind) = kind.filter(|_| is_alone) {
            seen.kinds[kind][usize::from(expected.is_err())] += 1;
        }
        seen.n_refused += u64::from(expected.is_err());
        seen.n_quick += u64::from(!bytes.is_empty() && is_quick(&mut decoder, &bytes, &mut ours));
    }
    seen
}
