"""What users try instead, over the same worlds: thresholds on PSI, chi-square with Benjamini-Hochberg, CUSUM, Page-Hinkley, ADWIN.

ADWIN is river's own. Page-Hinkley is river's formula over all concepts and thresholds at once, held equal to river's by `check`.
PSI and chi-square compare the share of users that show a concept in a window with the reference's share; the sequential ones are
fed that share minus the reference's mean of the same hour, over its standard deviation: what a careful user would feed them.
Each runs at its default and at a grid of settings; the table shows the default and the setting that alarms as seldom as we do.
"""
import numpy as np

BH_LEVEL = 0.05
GRIDS = {                                                            # the first is the default
    "PSI > 0.2, all concepts": [0.2, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.3, 0.5, 0.8, 1.2],
    "PSI > 0.2, a concept": [0.2, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.3, 0.5],
    "chi2 + BH": [0.05, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12, 1e-15, 1e-20, 1e-30, 1e-40],
    "CUSUM": [5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 18.0, 22.0, 27.0, 33.0, 40.0, 50.0, 65.0, 80.0],
    "Page-Hinkley": [50.0, 15.0, 20.0, 25.0, 30.0, 37.0, 45.0, 60.0, 75.0, 100.0, 150.0, 200.0],
    "ADWIN": [2e-3, 0.3, 0.03],
}
LEVELS = {"chi2 + BH", "ADWIN"}                                       # a larger setting alarms more often


def run(presence, entities, reference):
    """{peer: {setting: [(window, best stream, all streams)]}}, windows of the file, after the reference"""
    rate = presence / entities[:, None]
    expected = presence[:reference].sum(0).clip(0.5) / entities[:reference].sum()
    hour = np.arange(len(rate)) % 24
    daily = np.stack([rate[:reference][hour[:reference] == h].mean(0) for h in range(24)])
    residual = rate - daily[hour]
    z = residual / residual[:reference].std(0).clip(1e-9)
    found = {name: {s: [] for s in grid} for name, grid in GRIDS.items()}
    by_window(found, presence, entities, rate, expected, reference)
    cusum(found["CUSUM"], z, reference)
    page_hinkley(found["Page-Hinkley"], z, reference)
    adwin(found["ADWIN"], z, reference)
    return found


def by_window(found, presence, entities, rate, expected, reference):
    from scipy.special import chdtrc
    n_ref = entities[:reference].sum()
    c_ref = presence[:reference].sum(0)
    share_ref = c_ref.clip(0.5) / c_ref.clip(0.5).sum()
    m = len(expected)
    for t in range(reference, len(rate)):
        share = presence[t].clip(0.5) / presence[t].clip(0.5).sum()
        part = (share - share_ref) * np.log(share / share_ref)
        p = rate[t].clip(1e-6, 1 - 1e-6)
        own = (p - expected) * np.log(p / expected) + (expected - p) * np.log((1 - p) / (1 - expected))
        pooled = (presence[t] + c_ref) / (entities[t] + n_ref)
        spread = pooled * (1 - pooled) * (1 / entities[t] + 1 / n_ref)
        pvalue = chdtrc(1, (rate[t] - c_ref / n_ref) ** 2 / spread.clip(1e-15))
        order = np.sort(pvalue) * m / np.arange(1, m + 1)
        best = int(own.argmax())
        for s in GRIDS["PSI > 0.2, all concepts"]:
            if part.sum() > s:
                found["PSI > 0.2, all concepts"][s].append((t, int(part.argmax()), [int(part.argmax())]))
        for s in GRIDS["PSI > 0.2, a concept"]:
            if own[best] > s:
                found["PSI > 0.2, a concept"][s].append((t, best, np.flatnonzero(own > s).tolist()))
        for s in GRIDS["chi2 + BH"]:
            if (order <= s).any():
                k = np.flatnonzero(order <= s).max() + 1
                found["chi2 + BH"][s].append((t, int(pvalue.argmin()), np.argsort(pvalue)[:k].tolist()))


def cusum(found, z, reference):
    """two-sided tabular CUSUM, allowance half a standard deviation, reset at an alarm"""
    grid = np.array(GRIDS["CUSUM"])[:, None]
    up, down = np.zeros((2, len(grid), z.shape[1]))
    for t in range(reference, len(z)):
        up, down = np.maximum(0, up + z[t] - 0.5), np.maximum(0, down - z[t] - 0.5)
        most = np.maximum(up, down)
        alarm = most > grid
        note(found, GRIDS["CUSUM"], t, alarm, most)
        up[alarm] = down[alarm] = 0


def page_hinkley(found, z, reference, delta=0.005, alpha=0.9999, least=30):
    """river's PageHinkley, both directions, fed the reference too; alarms there are not counted"""
    grid = np.array(GRIDS["Page-Hinkley"])[:, None]
    shape = (len(grid), z.shape[1])
    n, mean, up, down = np.zeros((4, *shape))
    low, high = np.full(shape, np.inf), np.full(shape, -1.0)
    for t in range(len(z)):
        n += 1
        mean += (z[t] - mean) / n
        dev = z[t] - mean
        up, down = alpha * up + dev - delta, alpha * down + dev + delta
        low, high = np.minimum(low, up), np.maximum(high, down)
        most = np.where(n >= least, np.maximum(up - low, high - down), 0)
        alarm = most > grid
        if t >= reference:
            note(found, GRIDS["Page-Hinkley"], t, alarm, most)
        n[alarm] = mean[alarm] = up[alarm] = down[alarm] = 0
        low[alarm], high[alarm] = np.inf, -1.0


def adwin(found, z, reference):
    from river.drift import ADWIN
    rows = z.tolist()
    for delta in GRIDS["ADWIN"]:
        detectors = [ADWIN(delta=delta) for _ in range(z.shape[1])]
        for t, row in enumerate(rows):
            alarm = []
            for j, (detector, value) in enumerate(zip(detectors, row)):
                detector.update(value)
                if detector.drift_detected:
                    alarm.append(j)
            if alarm and t >= reference:
                best = max(alarm, key=lambda j: abs(detectors[j].estimation))
                found[delta].append((t, best, alarm))


def note(found, grid, t, alarm, most):
    for i in np.flatnonzero(alarm.any(1)):
        hit = np.flatnonzero(alarm[i])
        found[grid[i]].append((t, int(hit[most[i, hit].argmax()]), hit.tolist()))


def check(seed):
    """Refuses to go on unless river's PageHinkley alarms at the same times as ours."""
    from river.drift import PageHinkley
    z = np.random.default_rng(seed).normal(0, 1, (600, 8))
    z[300:] += np.linspace(-1.5, 1.5, 8)
    found = {s: [] for s in GRIDS["Page-Hinkley"]}
    page_hinkley(found, z, 0)
    for s in GRIDS["Page-Hinkley"]:
        detectors = [PageHinkley(threshold=s) for _ in range(8)]
        expected = []
        for t, row in enumerate(z.tolist()):
            for detector, value in zip(detectors, row):
                detector.update(value)
            if any(d.drift_detected for d in detectors):
                expected.append((t, [j for j, d in enumerate(detectors) if d.drift_detected]))
        if [(t, hit) for t, _, hit in found[s]] != expected:
            raise SystemExit(f"bench-drift: our Page-Hinkley and river's differ at threshold {s}, seed {seed}")
