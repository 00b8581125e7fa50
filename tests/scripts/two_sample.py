"""Two-sample comparison over strata, in numpy: the twin of src/workshop/report/two_sample.rs.

Reads [[[y_a, e_a, y_b, e_b], ...], ...] from standard input, prints one object a stream that can be compared.
"""
import json
import sys

import numpy as np
from scipy.stats import norm

fits = []
for rows in json.load(sys.stdin):
    y_a, e_a, y_b, e_b = np.array(rows, float).T
    watched = (e_a > 0) & (e_b > 0)
    y_a, e_a, y_b, e_b = (v[watched] for v in (y_a, e_a, y_b, e_b))
    n, e = y_a + y_b, e_a + e_b
    if not (n > 0).any():
        continue
    up, down = np.sum(y_b * e_a / e), np.sum(y_a * e_b / e)
    half = 0.5 if up == 0 or down == 0 else 0.0
    fitted = (up + half) / (down + half)
    share = fitted * e_b / (e_a + fitted * e_b)
    seen = n > 0
    chi = np.sum((y_b - n * share)[seen] ** 2 / (n * share * (1 - share))[seen])
    information = np.sum(n * e_a * e_b / e**2)
    fits.append(dict(
        ratio=up / down if down else np.inf, middle=fitted, windows=int(seen.sum()),
        variance=information / ((up + half) * (down + half)), information=information,
        score=np.sum(y_b - n * e_b / e), dispersion=chi / (seen.sum() - 1) if seen.sum() > 1 else np.nan))

own = sorted(f["dispersion"] for f in fits if np.isfinite(f["dispersion"]))
common = max(1.0, own[len(own) // 2]) if own else 1.0
for f in fits:
    degrees = f["windows"] - 1
    phi = max(1.0, (np.nan_to_num(degrees * f["dispersion"]) + 20 * common) / (degrees + 20))
    width = np.exp(norm.ppf(0.975) * np.sqrt(phi * f["variance"]))
    f["z"] = f["score"] / np.sqrt(phi * f["information"])
    f["p"] = 2 * norm.sf(abs(f["z"]))
    f["low"] = 0.0 if f["ratio"] == 0 else f["middle"] / width
    f["high"] = None if np.isinf(f["ratio"]) else f["middle"] * width

order = np.argsort([f["p"] for f in fits])
least = 1.0
for rank in range(len(order), 0, -1):
    f = fits[order[rank - 1]]
    least = min(least, f["p"] * len(fits) / rank)
    f["q"] = least
print(json.dumps([{k: (None if f[k] is None or np.isinf(f[k]) else float(f[k])) for k in ("ratio", "low", "high", "z", "p", "q")} for f in fits]))
