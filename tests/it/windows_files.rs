//! Windows files as other programs write them: what means the same is judged the same, and what is malformed is refused
//! with its row and column.

use std::path::Path;
use std::process::Command;

use recsae::clock::{Clock, SystemClock};

use crate::support;

/// 100 hourly windows of six latents and two segments, and variants of the file. Row 40 is the one that is spoilt.
const WRITE: &str = r#"
import sys, numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq
folder, rng = sys.argv[1], np.random.default_rng(int(sys.argv[2]))
rows, start = [], pd.Timestamp('2026-03-02', tz='UTC')
for t in range(100):
    at = (start + pd.Timedelta(hours=t), start + pd.Timedelta(hours=t + 1), 'v1')
    for segment, size in (('_all', 900), ('surface=home', 300)):
        for bucket, part in ((1, .6), (9, .4)):
            n = int(size * part)
            rows.append((*at, segment, 'entities', bucket, n))
            for latent in range(6):
                y = rng.binomial(n, .02 * (latent + 1) * (2.5 if latent == 3 and t > 84 else 1))
                if segment == '_all':
                    rows.append((*at, segment, f'latent:{latent}', bucket, y))
                elif bucket == 1:
                    rows.append((*at, segment, f'latent:{latent}', None, y))
        rows.append((*at, segment, 'records', None, 3 * size))
plain = pd.DataFrame(rows, columns='window_start window_end model_version segment stream bucket value'.split())
plain['bucket'] = plain['bucket'].astype('Int32')
plain['value'] = plain['value'].astype('float64')

def write(name, frame, **how):
    frame.to_parquet(f'{folder}/{name}.parquet', index=False, **how)

def spoilt(name, **cells):
    frame = plain.copy()
    for column, value in cells.items():
        if isinstance(value, float) and column == 'bucket':
            frame[column] = frame[column].astype('float64')
        frame.loc[40, column] = value
    write(name, frame)

write('plain', plain)
pd.read_parquet(f'{folder}/plain.parquet').to_parquet(f'{folder}/round_trip.parquet')
write('float_buckets', plain.assign(bucket=plain.bucket.astype('float64')))
write('whole_values', plain.assign(value=plain.value.astype('int64')))
write('categories', plain.assign(segment=plain.segment.astype('category'), stream=plain.stream.astype('category')))
write('nanoseconds', plain.assign(window_start=plain.window_start.astype('datetime64[ns, UTC]')))
write('shuffled', plain.sample(frac=1, random_state=7))
write('gzip', plain, compression='gzip')
table = pa.Table.from_pandas(plain, preserve_index=False)
pq.write_table(table.set_column(4, 'stream', table['stream'].cast(pa.large_string())), f'{folder}/large_text.parquet')
only = plain[plain.stream == 'records'].assign(bucket=None)
pq.write_table(pa.Table.from_pandas(only, preserve_index=False), f'{folder}/no_bucket_at_all.parquet')

write('doubled', pd.concat([plain, plain.iloc[[40]]]))
total = plain[(plain.segment == '_all') & (plain.stream == 'latent:1')].groupby('window_start', as_index=False).first()
write('parts_and_total', pd.concat([plain, total.assign(bucket=pd.NA)]))
hour, minute = pd.Timedelta(hours=1), pd.Timedelta(minutes=1)
at, end = plain.window_start[40], plain.window_end[40]
spoilt('longer', window_start=at - 60 * 24 * hour)
spoilt('overlapping', window_start=at + 10 * minute, window_end=end + 10 * minute)
spoilt('backwards', window_end=at)
spoilt('between_buckets', bucket=6)
spoilt('broken_bucket', bucket=1.5)
spoilt('negative', value=-1.0)
spoilt('beyond_counts', value=1e300)
spoilt('unknown_stream', stream='latents:1')
records = plain.copy()
records.loc[25, 'value'] = 901.0
write('records_as_presence', records)
write('text_times', plain.assign(window_start=plain.window_start.astype(str)))
"#;

/// Rows of the written file that say where the fault is.
const REFUSED: [(&str, &str); 12] = [
    ("doubled", "column `stream`: expected each stream once in a segment and bucket of a window, found"),
    ("parts_and_total", "column `stream`: expected a stream either by session-length bucket or in one row without, found latent:1"),
    ("longer", "row 40, column `window_end`: expected 3600 s after window_start"),
    ("overlapping", "row 40, column `window_start`: expected windows of a model version that do not overlap"),
    ("backwards", "row 40, column `window_end`: expected a time after window_start"),
    ("between_buckets", "row 40, column `bucket`: expected null or one of [1, 2"),
    ("broken_bucket", "row 40, column `bucket`: expected null or the lower edge of a session-length bucket, found 1.5"),
    ("negative", "row 40, column `value`: expected a finite number >= 0, at most 2^53, found -1"),
    ("beyond_counts", "row 40, column `value`: expected a finite number >= 0, at most 2^53"),
    ("unknown_stream", "row 40, column `stream`: expected latent:N"),
    (
        "records_as_presence",
        "row 24, column `value`: expected of each latent told by session length at most the entities there are (900 in _all), in the window that begins in this row, found latent:0 9",
    ),
    ("text_times", "column `window_start`: expected a timestamp, found Utf8"),
];

const THE_SAME: [&str; 8] = ["round_trip", "float_buckets", "whole_values", "categories", "nanoseconds", "shuffled", "gzip", "large_text"];

fn backtest(file: &Path, more: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recsae"));
    command.env("RECSAE__DRIFT__HARMONICS", "0").env("RECSAE__DRIFT__WEEKEND", "false").args(["backtest", "--json", "--windows"]);
    let output = command.arg(file).args(more).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn written() -> Option<tempfile::TempDir> {
    let python = support::python()?;
    let seed = SystemClock.now_ms().unsigned_abs() % 1_000_000;
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let done = Command::new(python).args(["-c", WRITE]).arg(folder.path()).arg(seed.to_string()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Some(folder)
}

#[test]
fn files_of_other_programs_are_judged_alike_and_malformed_ones_are_refused_with_row_and_column() {
    let Some(folder) = written() else { return };
    let judged = |name: &str| backtest(&folder.path().join(format!("{name}.parquet")), &["--reference", "72"]);
    let (code, plain, errors) = judged("plain");
    assert!(code == 0 && plain.contains("latent:3"), "{code}: {errors} {plain}");
    for name in THE_SAME {
        let (code, found, errors) = judged(name);
        assert!(code == 0 && found == plain, "{name}: {code} {errors}");
    }
    let (code, _, errors) = judged("no_bucket_at_all");
    assert!(code == 2 && !errors.contains("column"), "a column of nulls is one without buckets: {errors}");
    for (name, words) in REFUSED {
        let (code, _, errors) = judged(name);
        assert!(code == 2 && errors.contains(words), "{name}: {code} {errors}");
    }
}

#[test]
fn several_settings_are_drawn_in_one_picture() {
    let Some(folder) = written() else { return };
    let (file, picture) = (folder.path().join("plain.parquet"), folder.path().join("evidence.svg"));
    let drawn = |more: &[&str]| {
        let plot = picture.to_str().unwrap();
        let (code, _, errors) = backtest(&file, &[&["--reference", "72", "--plot", plot], more].concat());
        assert_eq!(code, 0, "{errors}");
        std::fs::read_to_string(&picture).unwrap()
    };
    let one = drawn(&["--budget", "1 per 7d"]);
    assert!(one.contains("_all") && one.contains("surface=home"), "a line a segment");
    let two = drawn(&["--budget", "1 per 7d", "--budget", "1 per 90d"]);
    assert!(two.contains("1 per 7d, min effect 0.01: ") && two.contains("1 per 90d, min effect 0.01: "), "a line a setting");
}

#[test]
fn settings_that_make_no_sense_are_refused_in_words() {
    let Some(folder) = written() else { return };
    let file = folder.path().join("plain.parquet");
    let families = |name: &str, latents: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("{{\"family:0\": {{\"name\": \"x\", \"latents\": {latents}}}}}")).unwrap();
        path.display().to_string()
    };
    let (twice, beyond, none) = (families("twice", "[1, 1]"), families("beyond", "[1, 6]"), families("none", "[]"));
    for (more, words) in [
        (["--min-effect", "nan"], "drift.min_effect: expected a relative shift from 0 to below 1, found NaN"),
        (["--min-effect", "inf"], "found inf"),
        (["--latents", "99999999999"], "expected --latents from 6 (the file's largest is latent:5) to 1048576, found 99999999999"),
        (["--latents", "3"], "expected --latents from 6"),
        (["--families", &twice], "each once, found 2 (1 distinct)"),
        (["--families", &beyond], "expected latents below 6"),
        (["--families", &none], "at least one latent"),
        (["--reference", "100"], "the reference takes all 100 windows of the file, none is left to judge"),
    ] {
        let reference: &[&str] = if more[0] == "--reference" { &[] } else { &["--reference", "72"] };
        let (code, _, errors) = backtest(&file, &[&more[..], reference].concat());
        assert!(code == 2 && errors.contains(words), "{more:?}: {code} {errors}");
    }
}
