#!/usr/bin/env python3
"""How fast drift is found, how often it is claimed where there is none: worlds of drift_world.py through `recsae backtest`.

needs: numpy numba scipy pyarrow river, and drift_world.py (--tools)
usage: drift.py --recsae PROGRAM --tools DIR [--seeds 1,2,3] [--runs 24] [--windows 8000] [--kinds a,b] [--peer-runs 6] [--jobs 2]
Seeds default to two from the clock, printed. Of each drift --runs runs and of each nuisance --windows windows are pooled over
the seeds. A run that never alarms counts with the horizon as delay and a wrong name. Delay 1 = the first drifting window.
The peers see the first --peer-runs runs of each drift and as many windows of each nuisance as the first run of each seed holds.
"""
import argparse, concurrent.futures, datetime, json, pathlib, statistics, subprocess, sys, tempfile, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import drift_files, drift_peers

REFERENCE, CLEAN, HORIZON, SPAN = 336, 24, 72, 2000
NUISANCES = ["null", "wander", "volume", "session", "concentration", "bots", "weekend"]
BAR = {"mid+50": 9, "mid+100": 4, "mid-50": 7, "head+25": 10, "rare_x3": 3.5, "vanish": 3, "new_direction": 3.5, "gradual": 25,
       "dense15": 12, "topic-10": 14, "segment_x4": 8}
MANY = {"dense15", "topic-10"}
NOT_FOR_PEERS = {"new_direction", "segment_x4"}                       # they are fed the concepts of `_all`
ORIGIN = datetime.datetime(2026, 1, 5, tzinfo=datetime.timezone.utc)


def hour(text):
    return round((datetime.datetime.fromisoformat(text) - ORIGIN).total_seconds() / 3600)


def run(a, kind, seed, repetition, with_peers):
    """as `judged`, of the first world drawn so whose reference the self-check lets pass; refused ones are counted"""
    for refused in range(4):
        if found := judged(a, kind, seed, repetition + "'" * refused, with_peers):
            return *found, refused
    sys.exit(f"bench-drift: {kind} of seed {seed}: the self-check refused the references of four worlds in a row")


def judged(a, kind, seed, repetition, with_peers):
    """one world: its truth, crossings as (window, segment, stream), windows judged, and what the peers say; None without a reference"""
    sys.path.insert(0, str(a.tools))
    import drift_world
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        n = SPAN if kind in NUISANCES else CLEAN + HORIZON
        truth, presence, entities = drift_files.write(drift_world, folder / "w.parquet", kind, seed, repetition, REFERENCE, n, CLEAN)
        command = [a.recsae, "backtest", "--windows", folder / "w.parquet", "--reference", str(REFERENCE), "--budget", "1 per 1000 windows", "--json"]
        if kind == "topic-10":
            families = {f"family:{i}": {"name": f"topic {i}", "latents": list(range(32 * i, 32 * i + 32))} for i in range(32)}
            (folder / "f.json").write_text(json.dumps(families))
            command += ["--families", folder / "f.json"]
            truth["streams"].append(f"family:{int(truth['streams'][0][7:]) // 32}")
        answer = subprocess.run(command, capture_output=True, text=True)
        if "make no reference" in answer.stderr:
            return None
        if answer.returncode:
            sys.exit(f"bench-drift: {kind} of seed {seed}: {answer.stderr}")
        found = json.loads(answer.stdout)
    peers = drift_peers.run(presence, entities, REFERENCE) if with_peers else None
    return kind, truth, [(hour(c["window_start"]), c["segment"], c["stream"]) for c in found["crossings"]], found["windows"], peers


def outcome(truth, kind, events):
    """(delay, found, first name right) of one run; events: (window, first named is right, any named is right)"""
    first = truth["first_drifting_window"]
    after = [e for e in events if first <= e[0] < first + HORIZON]
    hit = next((e for e in after if e[2]), None)
    return (hit[0] - first + 1 if hit else HORIZON), hit is not None, bool(after) and after[0][1]


def ours(kind, truth, crossings):
    right = lambda c: c[2] in truth["streams"] and (c[1] == truth["segment"] or kind in MANY)
    events = {}
    for c in crossings:                                               # in order of time, then evidence
        first, hit = events.get(c[0], (right(c), False))
        events[c[0]] = (first, hit or right(c))
    return outcome(truth, kind, [(t, *e) for t, e in events.items()])


def theirs(kind, truth, alarms):
    right = {int(s[7:]) for s in truth["streams"] if s.startswith("latent:")}
    return outcome(truth, kind, [(t, best in right, not right.isdisjoint(named)) for t, best, named in alarms])


def summary(outcomes):
    delays, found, named = zip(*outcomes)
    return statistics.median(delays), sum(found) / len(found), sum(named) / len(named)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--recsae", required=True, type=pathlib.Path); p.add_argument("--tools", required=True, type=pathlib.Path)
    p.add_argument("--seeds", default=""); p.add_argument("--runs", type=int, default=24); p.add_argument("--windows", type=int, default=8000)
    p.add_argument("--kinds", default=""); p.add_argument("--peer-runs", type=int, default=6); p.add_argument("--jobs", type=int, default=2)
    a = p.parse_args()
    if not (a.tools / "drift_world.py").is_file():
        sys.exit(f"bench-drift: expected drift_world.py in {a.tools}, found none; give its folder with --tools")
    sys.path.insert(0, str(a.tools))
    import drift_world
    clock, began = int(time.time()), time.time()
    seeds = a.seeds.split(",") if a.seeds else [str(clock), str(clock + 1)]
    kinds = a.kinds.split(",") if a.kinds else NUISANCES + list(BAR)
    print("seeds", ",".join(seeds), flush=True)
    drift_files.check(drift_world, kinds, seeds[0])
    if a.peer_runs:
        drift_peers.check(clock)
    n_runs = lambda kind: -(-a.windows // SPAN) if kind in NUISANCES else a.runs
    n_peer = lambda kind: 0 if kind in NOT_FOR_PEERS or not a.peer_runs else len(seeds) if kind in NUISANCES else a.peer_runs
    # One of each kind after the other, so that what is done when somebody stops it (Ctrl-C) is a table all the same.
    most = max(n_runs(k) for k in kinds)
    tasks = [(a, k, seeds[i % len(seeds)], str(i // len(seeds)), i < n_peer(k)) for i in range(most) for k in kinds if i < n_runs(k)]
    done = {k: [] for k in kinds}
    with concurrent.futures.ProcessPoolExecutor(a.jobs) as pool:
        try:
            for i, result in enumerate(pool.map(run, *zip(*tasks)), 1):
                done[result[0]].append(result[1:])
                if i % 20 == 0:
                    print(f"{i} of {len(tasks)} worlds, {time.time() - began:.0f} s", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            print(f"stopped after {sum(map(len, done.values()))} of {len(tasks)} worlds")
    kinds = [k for k in kinds if done[k]]
    failed = print_false_alarms(done, kinds) + print_drifts(done, kinds)
    if a.peer_runs:
        print_peers(done, kinds)
    refused = {k: n for k in kinds if (n := sum(r[4] for r in done[k]))}
    print(f"\nreferences that the self-check refused, so that another world was drawn: {refused or 'none'}")
    print(f"{time.time() - began:.0f} s; " + ("every bar reached" if not failed else "NOT reached: " + ", ".join(failed)))
    sys.exit(1 if failed else 0)


def print_false_alarms(done, kinds):
    failed = []
    for k in (k for k in kinds if k in NUISANCES):
        if not failed and k == next(k for k in kinds if k in NUISANCES):
            print(f"\n{'no drift':<16}{'windows':>9}{'alarm windows':>15}{'per 1,000':>11}{'bar':>7}")
        windows, alarms = sum(r[2] for r in done[k]), sum(len({c[0] for c in r[1]}) for r in done[k])
        failed += [k] if 1000 * alarms / windows > 1 else []
        print(f"{k:<16}{windows:>9}{alarms:>15}{1000 * alarms / windows:>11.2f}{'<= 1':>7}")
    return failed


def print_drifts(done, kinds):
    failed, single = [], []
    if any(k in BAR for k in kinds):
        print(f"\n{'drift':<16}{'runs':>6}{'median delay':>14}{'bar':>8}{'found':>8}{'named right':>13}{'false before':>14}")
    for k in (k for k in kinds if k in BAR):
        outcomes = [ours(k, truth, crossings) for truth, crossings, *_ in done[k]]
        early = sum(any(c[0] < truth["first_drifting_window"] for c in crossings) for truth, crossings, *_ in done[k])
        delay, found, named = summary(outcomes)
        failed += [k] if delay > BAR[k] else []
        single += [o[2] for o in outcomes] if k not in MANY else []
        print(f"{k:<16}{len(outcomes):>6}{delay:>14g}{f'<= {BAR[k]:g}':>8}{found:>8.0%}{named:>13.0%}{early:>14}")
    if single:
        failed += ["names"] if sum(single) / len(single) < 0.95 else []
        print(f"\nfirst concept named right in {sum(single) / len(single):.1%} of {len(single)} single-concept runs (bar: 95 %)")
    return failed


def print_peers(done, kinds):
    """each peer at its default and at the most sensitive setting of its grid that alarms no more often than we do"""
    quiet = [r for k in kinds if k in NUISANCES for r in done[k] if r[3]]
    drifts = [k for k in kinds if k in BAR and k not in NOT_FOR_PEERS]
    windows = sum(r[2] for r in quiet)
    mine = sum(len({c[0] for c in r[1]}) for r in quiet)
    n = sum(1 for k in drifts for r in done[k] if r[3])
    if not windows or not n:
        return
    print(f"\nThe same files, {windows} windows without drift and {n} runs with one: median delay (share found, first name right)")
    print(f"{'':<42}{'false per 1,000':>16}" + "".join(f"{k:>17}" for k in drifts) + f"{'named right':>13}")

    def row(label, false, outcomes_of):
        cells, right = [], []
        for k in drifts:
            outcomes = [outcomes_of(k, r) for r in done[k] if r[3]]
            delay, found, _ = summary(outcomes)
            right += [o[2] for o in outcomes] if k not in MANY else []
            cells.append(f"{f'{delay:g} ({found:.0%})':>17}")
        print(f"{label:<42}{1000 * false / windows:>16.2f}" + "".join(cells) + f"{sum(right) / max(1, len(right)):>13.0%}")

    row("recsae", mine, lambda k, r: ours(k, r[0], r[1]))
    for peer, grid in drift_peers.GRIDS.items():
        false = {s: sum(len({t for t, _, _ in r[3][peer][s]}) for r in quiet) for s in grid}
        row(f"{peer}, default", false[grid[0]], lambda k, r: theirs(k, r[0], r[3][peer][grid[0]]))
        # Ours may be 0 in these windows; a peer is then given the one alarm window that cannot be told from it.
        matched = [s for s in grid if false[s] <= max(mine, 1)]
        if matched:
            s = max(matched, key=lambda s: s if peer in drift_peers.LEVELS else -s)     # the most sensitive of them
            row(f"{peer}, at {s:g} to match", false[s], lambda k, r: theirs(k, r[0], r[3][peer][s]))
        else:
            print(f"{peer + ', matched':<42}{'no setting of the grid alarms so seldom':>16}")


if __name__ == "__main__":
    main()
