#!/usr/bin/env python3
"""How fast drift is found, how often it is claimed where there is none: worlds of drift_world.py through `recsae backtest`.

needs: numpy numba pyarrow, and drift_world.py (--tools)
usage: drift.py --recsae PROGRAM --tools DIR [--seeds 1,2,3] [--runs 24] [--windows 8000] [--kinds a,b] [--jobs 2]
Seeds default to two from the clock, printed. Of each drift --runs runs and of each nuisance --windows windows are pooled over
the seeds. A run that never alarms counts with the horizon as delay and a wrong name. Delay 1 = the first drifting window.
"""
import argparse, concurrent.futures, datetime, json, pathlib, statistics, subprocess, sys, tempfile, time

REFERENCE, CLEAN, HORIZON, SPAN = 336, 24, 96, 1000
NUISANCES = ["null", "wander", "volume", "session", "concentration", "bots", "weekend"]
BAR = {"mid+50": 9, "mid+100": 4, "mid-50": 7, "head+25": 10, "rare_x3": 3.5, "vanish": 3, "new_direction": 3.5, "gradual": 25,
       "dense15": 12, "topic-10": 14, "segment_x4": 8}
MANY = {"dense15", "topic-10"}
ORIGIN = datetime.datetime(2026, 1, 5, tzinfo=datetime.timezone.utc)


def hour(text):
    return round((datetime.datetime.fromisoformat(text) - ORIGIN).total_seconds() / 3600)


def run(a, kind, seed, repetition):
    """crossings of one world as (window, segment, stream), its truth, and windows judged"""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        n = SPAN if kind in NUISANCES else CLEAN + HORIZON
        subprocess.run([sys.executable, a.tools / "drift_world.py", "--seed", str(seed), "--kind", kind, "--windows", str(n), "--reference", str(REFERENCE),
                        "--clean", str(CLEAN), "--repetition", str(repetition), "--out", folder / "w.parquet", "--truth", folder / "t.json"], check=True, stdout=subprocess.DEVNULL)
        truth = json.loads((folder / "t.json").read_text())
        command = [a.recsae, "backtest", "--windows", folder / "w.parquet", "--reference", str(REFERENCE), "--budget", "1 per 1000 windows", "--json"]
        if kind == "topic-10":
            families = {f"family:{i}": {"name": f"topic {i}", "latents": list(range(32 * i, 32 * i + 32))} for i in range(32)}
            (folder / "f.json").write_text(json.dumps(families))
            command += ["--families", folder / "f.json"]
            truth["streams"].append(f"family:{int(truth['streams'][0][7:]) // 32}")
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return kind, truth, [(hour(c["window_start"]), c["segment"], c["stream"]) for c in found["crossings"]], found["windows"]


def row_of_drift(kind, runs):
    delays, named, found, early = [], 0, 0, 0
    for _, truth, crossings, _ in runs:
        first = truth["first_drifting_window"]
        after = [c for c in crossings if first <= c[0] < first + HORIZON]
        right = lambda c: c[2] in truth["streams"] and (c[1] == truth["segment"] or kind in MANY)
        early += any(c[0] < first for c in crossings)
        hit = next((c for c in after if right(c)), None)
        delays.append(hit[0] - first + 1 if hit else HORIZON)
        found += hit is not None
        at_first = [c for c in after if c[0] == after[0][0]] if after else []
        named += bool(at_first) and right(at_first[0])
    n = len(runs)
    return statistics.median(delays), found / n, named / n, early


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--recsae", required=True, type=pathlib.Path); p.add_argument("--tools", required=True, type=pathlib.Path)
    p.add_argument("--seeds", default=""); p.add_argument("--runs", type=int, default=24); p.add_argument("--windows", type=int, default=8000)
    p.add_argument("--kinds", default=""); p.add_argument("--jobs", type=int, default=2)
    a = p.parse_args()
    if not (a.tools / "drift_world.py").is_file():
        sys.exit(f"bench-drift: expected drift_world.py in {a.tools}, found none; give its folder with --tools")
    clock = int(time.time())
    seeds = a.seeds.split(",") if a.seeds else [str(clock), str(clock + 1)]
    kinds = a.kinds.split(",") if a.kinds else NUISANCES + list(BAR)
    print("seeds", " ".join(seeds), flush=True)
    tasks = [(k, seeds[i % len(seeds)], i // len(seeds)) for k in kinds for i in range(-(-a.windows // SPAN) if k in NUISANCES else a.runs)]
    began, done = time.time(), {k: [] for k in kinds}
    with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        for result in pool.map(lambda t: run(a, *t), tasks):
            done[result[0]].append(result)
    failed = []
    if any(k in NUISANCES for k in kinds):
        print(f"\n{'no drift':<16}{'windows':>9}{'alarm windows':>15}{'per 1,000':>11}{'bar':>7}")
    for k in (k for k in kinds if k in NUISANCES):
        windows = sum(r[3] for r in done[k])
        alarms = sum(len({c[0] for c in r[2]}) for r in done[k])
        failed += [k] if 1000 * alarms / windows > 1 else []
        print(f"{k:<16}{windows:>9}{alarms:>15}{1000 * alarms / windows:>11.2f}{'<= 1':>7}")
    if any(k in BAR for k in kinds):
        print(f"\n{'drift':<16}{'runs':>6}{'median delay':>14}{'bar':>8}{'found':>8}{'named right':>13}{'false before':>14}")
    single, right = 0, 0
    for k in (k for k in kinds if k in BAR):
        delay, found, named, early = row_of_drift(k, done[k])
        failed += [k] if delay > BAR[k] else []
        if k not in MANY:
            single, right = single + len(done[k]), right + named * len(done[k])
        print(f"{k:<16}{len(done[k]):>6}{delay:>14g}{f'<= {BAR[k]:g}':>8}{found:>8.0%}{named:>13.0%}{early:>14}")
    if single:
        failed += ["names"] if right / single < 0.95 else []
        print(f"\nfirst concept named right in {right / single:.1%} of {single} single-concept runs (bar: 95 %)")
    print(f"{time.time() - began:.0f} s; " + ("every bar reached" if not failed else "NOT reached: " + ", ".join(failed)))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
