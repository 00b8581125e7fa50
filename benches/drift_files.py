"""Windows files of drift_world.py, written faster: the same draws and the same rows, without a text for each row.

`check` proves it: for every kind a short file of drift_world.py itself and one of ours hold equal rows.
"""
import contextlib, io, json, pathlib, sys, tempfile
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

UTC, HOUR_MS = pa.timestamp("ms", tz="UTC"), 3_600_000


def write(dw, path, kind, seed, repetition, reference, windows, clean):
    """Writes the file; returns (truth, presence [T, M], entities [T]) of `_all`. Follows the draws of drift_world.main."""
    world, r = dw.World(seed), dw.rng_for("stream", seed, kind, repetition)
    drifts = kind in dw.DRIFTS
    offset = int(r.integers(0, dw.HOURS)) if drifts else 0
    first, who = reference + clean + offset, dw.targets(world, kind, r)
    n = reference + windows + offset
    drift_of = dw.wander(r, n) if kind == "wander" else None
    edges, B = dw.EDGES, len(dw.EDGES) - 1
    texts = [f"latent:{j}" for j in range(dw.M)] + ["entities", "records", "residual_outlier", "kish_exposure"]
    entities, scalars = dw.M, np.arange(dw.M + 1, dw.M + 4)
    segments = ["_all"] + (["group=0"] if kind == "segment_x4" else [])
    rows = {k: [] for k in ("t", "segment", "stream", "bucket", "value")}
    presence, people_of = np.zeros((n, dw.M)), np.zeros(n)

    def put(t, segment, stream, bucket, value):
        rows["t"].append(np.full(len(value), t)); rows["segment"].append(np.full(len(value), segment, np.int8))
        rows["stream"].append(stream.astype(np.int16)); rows["bucket"].append(bucket); rows["value"].append(value.astype(float))

    for t in range(n):
        day = (t - reference) // dw.HOURS
        live, drifting = t >= reference, drifts and t >= first
        w = world.weights(t)
        if drift_of is not None:
            w = w * np.exp(drift_of[t])
        if kind == "weekend" and (t // dw.HOURS) % 7 >= 5:
            w = w * world.weekend[world.topic]
        f = dw.multiplier(kind, who, t - first) if drifting else np.ones(dw.M)
        records = int(5000 * [0.3, 1, 3, 0.6, 2][day % 5]) if live and kind == "volume" else 5000
        log_size = [1.0, 1.3, 1.7, 0.6, 1.0][day % 5] if live and kind == "session" else 1.0
        share = [0.6, 0.5, 0.7][day % 3] if live and kind == "concentration" else 0.6
        size, group, odd, user, concept = dw._window(
            int(r.integers(2**31)), w if kind == "segment_x4" else w * f, w * f, records, log_size, share,
            0.003 if live and kind == "bots" else 0.0, 0.02 if drifting and kind == "new_direction" else 0.0)
        length = np.searchsorted(edges, size, side="right") - 1
        for s, of in enumerate([np.ones(len(size), bool), group == 1][: len(segments)]):
            shown = of[user]
            table = np.bincount(length[user[shown]] * dw.M + concept[shown], minlength=B * dw.M)
            hit = np.flatnonzero(table)
            put(t, s, hit % dw.M, edges[hit // dw.M], table[hit])
            people = np.bincount(length[of], minlength=B)
            b = np.flatnonzero(people)
            put(t, s, np.full(len(b), entities), edges[b], people[b])
            kish = 1 / (1 + 0.1 * (size[of] - 1))
            put(t, s, scalars, np.full(3, -1), np.array([size[of].sum(), (odd[of] * kish).sum(), (size[of] * kish).sum()]))
            if s == 0:
                presence[t], people_of[t] = table.reshape(B, dw.M).sum(0), len(size)
    c = {k: np.concatenate(v) for k, v in rows.items()}
    start = np.datetime64("2026-01-05T00:00:00", "ms").astype(np.int64) + c["t"] * HOUR_MS
    text = lambda codes, of: pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(of))
    pq.write_table(pa.table({
        "window_start": pa.array(start).cast(UTC), "window_end": pa.array(start + HOUR_MS).cast(UTC),
        "model_version": text(np.zeros(len(start), np.int32), ["v1"]), "segment": text(c["segment"], segments), "stream": text(c["stream"], texts),
        "bucket": pa.array(c["bucket"].astype(np.int32), mask=c["bucket"] < 0), "value": pa.array(c["value"])}), path, compression="zstd")
    streams = ["residual_outlier"] if kind == "new_direction" else [f"latent:{j}" for j in who] if drifts else []
    truth = {"seed": seed, "kind": kind, "first_drifting_window": first if drifts else None, "streams": streams,
             "segment": "group=0" if kind == "segment_x4" else "_all"}
    return truth, presence, people_of


def plain(path):
    t = pq.read_table(path)
    return {name: t[name].cast(pa.string() if name in ("model_version", "segment", "stream") else t[name].type) for name in t.column_names}


def check(dw, kinds, seed):
    """Refuses to go on unless drift_world.py itself writes the same rows, for every kind."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, truth_file = (pathlib.Path(folder) / name for name in ("ours.parquet", "theirs.parquet", "truth.json"))
        for kind in kinds:
            sys.argv = ["drift_world.py", "--seed", seed, "--kind", kind, "--windows", "30", "--reference", "3", "--clean", "2", "--repetition", "1",
                        "--out", str(theirs), "--truth", str(truth_file)]
            with contextlib.redirect_stdout(io.StringIO()):
                dw.main()
            truth, _, _ = write(dw, ours, kind, seed, "1", 3, 30, 2)
            a, b, expected = plain(ours), plain(theirs), json.loads(truth_file.read_text())
            if any(truth[k] != expected[k] for k in truth) or any(not a[c].equals(b[c]) for c in a):
                sys.exit(f"bench-drift: the fast writer of benches/drift_files.py and drift_world.py differ for {kind}")
