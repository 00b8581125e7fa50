#!/usr/bin/env python3
"""Scenes for the judge, and what the numpy yardstick says of them.

needs: numpy scipy pyarrow, and the folder of drift_reference.py
usage: drift_yardstick.py scene --tools DIR --scene NAME --seed N --out DIR    writes windows.parquet and expected.json
       drift_yardstick.py special --seed N                                     prints rows of scipy's special functions

The concentration factor is measured on the concepts that the REFERENCE knows as frequent: the yardstick's own batch
run looks at the judged windows for that, which nobody can do while they arrive. Families, merging of thin
windows and rolling references are not in the yardstick: their twin is here.
"""
import argparse, json, pathlib, sys
import numpy as np

M, HOUR = 120, 3_600_000
SCENES = ["plain", "weekend", "weekend_factor", "session_mix", "concentration", "segment", "never_seen", "short", "families", "thin", "rolling"]


def special(seed):
    from scipy.special import gammaincinv, ndtr
    rng = np.random.default_rng(seed)
    a = np.concatenate([10 ** rng.uniform(-1.3, 6, 1500), rng.uniform(0.05, 30, 500)])
    p = np.concatenate([rng.uniform(1e-3, 0.999, 1000), 1 - ndtr(rng.uniform(0, 2.33, 500)), ndtr(rng.uniform(0, 2.33, 500))])
    z = rng.uniform(-6, 6, 2000)
    json.dump({"a": a.tolist(), "p": p.tolist(), "x": gammaincinv(a, p).tolist(), "z": z.tolist(), "cdf": ndtr(z).tolist()}, sys.stdout)


def world(dr, scene, rng):
    """Y [T, M], N [T, B], D [T, B, M], outliers [T], kish [T], and the same of the segment"""
    R = {"short": 8, "rolling": 56}.get(scene, 336)
    T = R + (60 if scene == "short" else 150)
    t = np.arange(T)
    rate = 10 ** rng.uniform(-2.6, -1.0, M)
    if scene == "never_seen":
        rate[:6] = 0.0
    lam = rate * (1 + 0.3 * np.cos(2 * np.pi * (t[:, None] - rng.integers(0, 24, M)) / 24)) if scene not in ("short", "rolling") else rate * np.ones((T, 1))
    if scene.startswith("weekend"):
        lam = lam * np.where(((t // 24) % 7 >= 5)[:, None], rng.uniform(0.6, 1.4, M), 1.0)
    if scene == "weekend_factor":                                                # of weekends most, with nights that meet the floor
        deep = 1 + 0.97 * np.cos(2 * np.pi * (t[:, None] - rng.integers(0, 24, 4)) / 24)
        lam[:, :4] = 0.02 * deep * np.where((t // 24) % 7 >= 5, 8.0, 1.0)[:, None]
    half = R + (T - R) // 3
    lam[half:, 7] *= 3.0
    lam[half:, 11] *= 0.2
    if scene == "never_seen":
        lam[half:, 2] = 0.05
    if scene == "families":
        lam[half:, 40:60] *= 0.8
    if scene == "concentration":
        lam[R:] *= np.where((t[R:] // 24) % 2 == 0, 0.75, 1.25)[:, None]
    B = len(dr.EDGES)
    shape = lambda: dict(Y=np.zeros((T, M)), N=np.zeros((T, B)), D=np.zeros((T, B, M)), odd=np.zeros(T), kish=np.zeros(T), records=np.zeros(T))
    out = {"_all": shape()} | ({"group=0": shape()} if scene == "segment" else {})
    for i in range(T):
        users = int(rng.integers(3, 15)) if scene == "thin" else int(rng.integers(250, 400))
        n = np.minimum(1 + np.floor(np.exp(rng.normal(1, 1, users))), 200).astype(int)
        if scene == "session_mix" and i >= R and i % 5 == 0:
            n = rng.integers(45, 120, users)
        x = rng.random((users, M)) < 1 - np.exp(-lam[i] * n[:, None] ** 0.8)
        member = rng.random(users) < 0.3
        if scene == "segment" and i >= half:
            x[:, 20] |= member & (rng.random(users) < 0.5)
        odd = rng.binomial(n, 0.15 if i >= half + 20 else 0.04)
        weight = 1 / (1 + 0.1 * (n - 1))
        for name, s in out.items():
            of = member if name != "_all" else np.ones(users, bool)
            s["Y"][i], s["N"][i] = x[of].sum(0), np.bincount(dr.length_bucket(n[of]), minlength=B)
            np.add.at(s["D"][i], dr.length_bucket(n[of]), x[of])
            s["odd"][i], s["kish"][i], s["records"][i] = (odd * weight)[of].sum(), (n * weight)[of].sum(), n[of].sum()
    return out, R, T, t


def write(path, out, T):
    import pyarrow as pa, pyarrow.parquet as pq
    rows = []
    edges = [1, 2, 3, 4, 5, 7, 9, 13, 19, 28, 45, 80]
    for name, s in out.items():
        for i in range(T):
            rows += [(i, name, f"latent:{j}", edges[b], s["D"][i, b, j]) for b, j in zip(*np.nonzero(s["D"][i]))]
            rows += [(i, name, "entities", edges[b], s["N"][i, b]) for b in np.flatnonzero(s["N"][i])]
            rows += [(i, name, k, None, v) for k, v in (("records", s["records"][i]), ("residual_outlier", s["odd"][i]), ("kish_exposure", s["kish"][i]))]
    order = np.random.default_rng(0).permutation(len(rows))                      # rows may come in any order
    rows = [rows[k] for k in order]
    start = np.datetime64("2026-01-05T00:00:00", "ms") + np.array([r[0] for r in rows]).astype("timedelta64[h]").astype("timedelta64[ms]")
    utc = pa.timestamp("ms", tz="UTC")
    pq.write_table(pa.table({
        "window_start": pa.array(start).cast(utc), "window_end": pa.array(start + np.timedelta64(HOUR, "ms")).cast(utc),
        "model_version": pa.array(["v1"] * len(rows)), "segment": pa.array([r[1] for r in rows]).dictionary_encode(),
        "stream": pa.array([r[2] for r in rows]), "bucket": pa.array([r[3] for r in rows], pa.int32()), "value": pa.array([float(r[4]) for r in rows])}), path)


def families_of(scene):
    return [list(range(12 * f, 12 * f + 12)) for f in range(10)] if scene == "families" else []


def family_exposure(D, N_ref, N, members):
    """sums of members' presence follow the latents' growth with session length, each family at its own level"""
    total = N_ref.sum(0)[:, None]
    growth = D.sum(1, keepdims=True) / np.maximum(total, 1) + 1e-12
    F = np.column_stack([D[:, k].sum(1) for k in members])
    level = np.maximum(F.sum(0, keepdims=True), 0.5) / (total * growth).sum()
    q0 = growth * level
    return N @ (q0 * (F + 5) / (total * q0 + 5))


def join(dr, base, extra, m):
    """one reference of latents, families, pseudo-streams: each side fitted (and its phi shrunk) by itself, the wander of the first"""
    put = lambda a, b: np.concatenate([a[..., :m], b, a[..., m:]], axis=-1)
    for name in ("C", "p", "beta", "mu_mean", "phi", "n_eff"):
        setattr(base, name, put(getattr(base, name), getattr(extra, name)))
    return base


def factor_reference(dr):
    """the yardstick's reference, with a weekend that multiplies the daily rhythm: Gauss-Newton on (rhythm, factor), stream by stream"""
    class Factor(dr.Reference):
        def mu(self, E, t):
            if not hasattr(self, "factor"):                                    # the yardstick fitted its added level just now
                self.fit(np.asarray(t))
            X = dr.design(t, *self.opt[:3], None)
            return E * np.maximum(X @ self.beta * np.where(self.opt[3](t)[:, None] > 0, self.factor, 1.0), 0.05 * self.p)

        def __init__(self, Y, E, t, **opt):
            self.rate = Y / E
            super().__init__(Y, E, t, **opt)

        def fit(self, t):
            X, w = dr.design(t, *self.opt[:3], None), self.opt[3](t)
            few = self.C < 10 * (X.shape[1] + 1)
            self.beta, self.factor = np.zeros((X.shape[1], len(self.C))), np.ones(len(self.C))
            for j in range(len(self.C)):
                if few[j]:
                    self.beta[0, j] = self.p[j]
                    continue
                z, f = self.rate[:, j], 1.0
                beta = np.linalg.lstsq(X, z, rcond=None)[0]
                for _ in range(60):
                    by = np.where(w > 0, f, 1.0)
                    step = np.linalg.lstsq(np.column_stack([X * by[:, None], w * (X @ beta)]), z - by * (X @ beta), rcond=None)[0]
                    beta, f = beta + step[:-1], f + step[-1]
                self.beta[:, j], self.factor[j] = beta, f
    return Factor


def renewed(dr, s, kept, old, A, opt):
    """the detector against a reference of the windows `kept`; evidence goes on"""
    q = dr.presence_curve(s["D"][kept].sum(0), s["N"][kept])
    y, e = np.column_stack([s["Y"][kept], s["odd"][kept]]), np.column_stack([dr.exposure(s["N"][kept], q), s["kish"][kept]])
    det = dr.Detector(dr.Reference(y, e, np.array(kept), **opt), A=A)
    for name in ("R", "s", "since", "sumY", "sumM"):
        setattr(det, name, getattr(old, name))
    return det


def merge_thin(Y, mu, N, t, least=20, most=6):
    """sums of windows until there are `least` entities, or `most` windows; yields (last window, Y, mu, N)"""
    y, e, n, k = 0, 0, 0, 0
    for i in range(len(Y)):
        y, e, n, k = y + Y[i], e + mu[i], n + N[i], k + 1
        if n.sum() >= least or k == most:
            yield i, y, e, n
            y, e, n, k = 0, 0, 0, 0


def scene(a):
    sys.path.insert(0, a.tools)
    import drift_reference as dr
    out, R, T, t = world(dr, a.scene, np.random.default_rng([a.seed, SCENES.index(a.scene)]))
    folder = pathlib.Path(a.out)
    write(folder / "windows.parquet", out, T)
    A, daytype = 5000.0 if a.scene == "rolling" else 500.0, dr.weekend if a.scene.startswith("weekend") else None
    opt = dict(harmonics=0 if a.scene in ("short", "rolling") else 3, daytype=daytype)
    s = out["_all"]
    q = dr.presence_curve(s["D"][:R].sum(0), s["N"][:R])
    members = families_of(a.scene)
    names = [f"latent:{j}" for j in range(M)] + [f"family:{f}" for f in range(len(members))] + ["residual_outlier"]

    def streams(s, families):
        Y, E = [s["Y"]], [dr.exposure(s["N"], q)]
        if families:
            Y.append(np.column_stack([s["Y"][:, k].sum(1) for k in families]))
            E.append(family_exposure(out["_all"]["D"][:R].sum(0), out["_all"]["N"][:R], s["N"], families))
        return np.column_stack(Y + [s["odd"]]), np.column_stack(E + [s["kish"]])

    Y, E = streams(s, members)
    single = np.r_[:M, M + len(members)]
    ref = (factor_reference(dr) if a.scene == "weekend_factor" else dr.Reference)(Y[:R][:, single], E[:R][:, single], t[:R], **opt)
    if members:
        mid = slice(M, M + len(members))
        ref = join(dr, ref, dr.Reference(Y[:R, mid], E[:R, mid], t[:R], **opt), M)
    segments = [n for n in out if n != "_all"]
    expected = dict(reference=R, budget=A, harmonics=opt["harmonics"], weekend=daytype is not None, weekend_as="factor" if a.scene == "weekend_factor" else "level", latents=M, families=members, segments={})
    for name, part in out.items():
        y, e = (Y, E) if name == "_all" else streams(part, [])
        r = ref if name == "_all" else dr.SegmentReference(ref, y[:R], e[:R], t[:R])
        share = (0.5 if name == "_all" else 0.5 / len(segments)) if segments else 1.0
        own = names if name == "_all" else names[:M] + names[-1:]
        is_family = np.array([n.startswith("family") for n in own])
        weight = np.full(len(own), share)
        if is_family.any():                                                     # groups of their own: ln(A m_g / share_g)
            for of, of_share in ((~is_family, 0.8), (is_family, 0.2)):
                weight[of] = of_share * share * len(own) / of.sum()
        det = dr.Detector(r, A=A, weight=weight)
        frequent = np.flatnonzero(r.mu_mean[:M] >= min(20.0, np.quantile(r.mu_mean[:M], 0.8)))
        shared = M + (len(members) if name == "_all" else 0)
        mu = r.mu(e[R:], t[R:])
        steps = merge_thin(y[R:], mu, part["N"][R:], t) if a.scene == "thin" else zip(range(T - R), y[R:], mu, part["N"][R:])
        evidence, alarms, skipped = [None] * (T - R), [], []
        kept, new = list(range(R)), 0
        for i, yi, mi, ni in steps:
            if dr.mix_distance(ni[None], part["N"][kept], q)[0] > 2.5:
                skipped.append(R + i)
                continue
            mi = mi.copy()
            mi[:shared] *= np.clip(yi[frequent], 0.5 * mi[frequent], 2 * mi[frequent]).sum() / mi[frequent].sum()
            ev = det.step(yi, mi)
            evidence[i] = (ev + det.thr).tolist()
            hit = np.flatnonzero(ev >= 0)
            for j in hit[np.argsort(-ev[hit])]:
                d = 0 if det.R[:2, j].max() >= det.R[2:, j].max() else 1
                alarms.append(dict(window=R + i, stream=own[j], direction=["up", "down"][d], evidence_log=float(ev[j] + det.thr[j]), ratio=float(det.sumY[d, j] / max(det.sumM[d, j], 1e-9))))
            if len(hit):
                det.reset(hit)
            if a.scene == "rolling" and not alarms:                         # frozen from the first alarm on: both drifts last to the end
                kept, new = kept[1:] + [R + i], new + 1
                if new == R // 14:
                    det, r, q, new = renewed(dr, s, kept, det, A, opt), None, dr.presence_curve(s["D"][kept].sum(0), s["N"][kept]), 0
                    mu[i + 1:] = det.ref.mu(np.column_stack([dr.exposure(s["N"][R + i + 1:], q), s["kish"][R + i + 1:]]), t[R + i + 1:])
                    frequent = np.flatnonzero(det.ref.mu_mean[:M] >= min(20.0, np.quantile(det.ref.mu_mean[:M], 0.8)))
        expected["segments"][name] = dict(streams=own, threshold=det.thr.tolist(), sigma_w=det.ref.sigma_w, evidence=evidence, alarms=alarms, skipped=skipped)
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("what", choices=["scene", "special"]); p.add_argument("--seed", type=int, required=True)
    p.add_argument("--tools"); p.add_argument("--scene", choices=SCENES); p.add_argument("--out")
    a = p.parse_args()
    special(a.seed) if a.what == "special" else scene(a)
