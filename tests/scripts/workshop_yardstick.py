"""What `recsae label`, `verify`, `concepts families` and `steer evaluate` must find, by numpy and scipy: no code is shared.

usage: workshop_yardstick.py < question.json > answer.json

The question names the files and, because the side of an id is a hash of `recsae`'s own, the users and items held out.
Nothing here is drawn: where a class has at most 200 cases, `recsae verify` looks at all of them.
"""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
from safetensors import safe_open
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import hypergeom

Q, MIN_LIFT, MIN_PRECISION, MIN_CASES, MIN_ITEMS = 0.01, 1.5, 0.5, 10, 3
MOST_CASES, NEAREST, LEAST_COSINE, Z = 200, 5, 0.3, 1.959963984540054


def sae_of(path):
    with safe_open(path, "np") as file:
        return {key: file.get_tensor(key).astype(np.float64) for key in file.keys()}, int(file.metadata()["k"])


def encode(x, sae, k):
    pre = np.maximum((x.astype(np.float64) - sae["b_dec"]) @ sae["encoder.weight"].T + sae["encoder.bias"], 0)
    z = np.zeros_like(pre)
    kept = np.argsort(-pre, axis=1, kind="stable")[:, :k]
    np.put_along_axis(z, kept, np.take_along_axis(pre, kept, 1), 1)
    return z


def ln_tail(n_cases, n_tagged, n_active, n_both):
    return min(hypergeom.logsf(n_both - 1, n_cases, n_tagged, n_active), 0.0) if n_both > 0 else 0.0


class Tags:
    """Tags by their number, in the order of their sources; which item carries which."""

    def __init__(self, table, sources, shown):
        self.names, self.of_item = [], [[] for _ in table]
        for source in sources:
            by_value = {}
            for item, row in enumerate(table):
                for value in set(self.values(source, row, item, shown)):
                    by_value.setdefault(value, []).append(item)
            for value in sorted(by_value):
                if len(by_value[value]) >= 3:
                    for item in by_value[value]:
                        self.of_item[item].append(len(self.names))
                    self.names.append((source, value))

    @staticmethod
    def values(source, row, item, shown):
        if source == "genres":
            return row["genres"]
        if source == "year":
            return [row["year"].strip()] if row["year"] and row["year"].strip() else []
        if source == "year:decade":
            year = row["year"] or ""
            return [str(int(year) // 10 * 10)] if year.isdigit() and 1000 <= int(year) < 3000 else []
        assert source == "popularity", source
        order = sorted((i for i in range(len(shown)) if shown[i] > 0), key=lambda i: (-shown[i], i))
        if not hasattr(Tags, "bands") or Tags.bands[0] is not shown:
            edges = [(0.01, "top 1 %"), (0.1, "top 10 %"), (0.5, "middle"), (1.0, "bottom half")]
            band = {i: next(name for edge, name in edges if (rank + 1) / len(order) <= edge + 1e-12) for rank, i in enumerate(order)}
            Tags.bands = (shown, band)
        return [Tags.bands[1][item]] if item in Tags.bands[1] else []


class World:
    def __init__(self, question):
        table = pq.read_table(question["items"]).to_pylist()
        place = {str(row["item_id"]): at for at, row in enumerate(table)}
        fields = pq.read_table(question["fields"]).to_pydict()
        rows = range(len(fields["user_id"]))
        if question.get("split"):
            rows = [row for row in rows if fields["split"][row] == question["split"]]
        vectors = np.load(question["vectors"])
        at = [fields["user_id"][row] if question["by_user"] else row for row in rows]
        self.x = vectors[at]
        self.sae, self.k = sae_of(question["sae"])
        z = encode(self.x, self.sae, self.k)
        # A case that says the same as an earlier one of its user is none.
        seen, self.users, self.items, kept = set(), [], [], []
        for number, row in enumerate(rows):
            items = sorted({place[str(item)] for item in fields["recommended"][row] if str(item) in place})
            case = (fields["user_id"][row], tuple(items), self.x[number].tobytes())
            if items and case not in seen:
                seen.add(case)
                self.users.append(str(fields["user_id"][row]))
                self.items.append(items)
                kept.append(number)
        self.z = z[kept]
        user_out, item_out = set(question["held_out_users"]), set(question["held_out_items"])
        self.user_out = np.array([user in user_out for user in self.users])
        self.item_out = [str(row["item_id"]) in item_out for row in table]
        shown = [0] * len(table)
        for items, out in zip(self.items, self.user_out):
            for item in [] if out else items:
                shown[item] += 1
        self.tags = Tags(table, question["tags"], shown)

    def cases(self, held_out):
        """Items and activations of the cases whose user and items are on one side."""
        side = [(case, [i for i in self.items[case] if self.item_out[i] == held_out]) for case in np.flatnonzero(self.user_out == held_out)]
        side = [(case, items) for case, items in side if items]
        return [items for _, items in side], self.z[[case for case, _ in side]]

    def presence(self, cases):
        """Which cases carry each tag: with so many of its items that at most half of all cases have as many."""
        counts = np.zeros((len(cases), len(self.tags.names)), int)
        for case, items in enumerate(cases):
            for item in items:
                for tag in self.tags.of_item[item]:
                    counts[case, tag] += 1
        at_least = []
        for of_tag in counts.T:
            exactly = np.bincount(of_tag)[1:]
            above, least = exactly.sum(), 1
            for n in exactly:
                if 2 * above <= len(cases) or above == n:
                    break
                above, least = above - n, least + 1
            at_least.append(least)
        return counts >= np.array(at_least), at_least


def characteristic(cases, z, latent, counts):
    active = np.flatnonzero(z[:, latent] > 0)
    if len(active) < MIN_CASES:
        return []
    here = np.bincount([item for case in active for item in cases[case]], minlength=len(counts))
    sure = []
    for item in np.flatnonzero(here >= 2):
        lift = here[item] / len(active) / (counts[item] / len(cases))
        ln_p = ln_tail(len(cases), counts[item], len(active), here[item])
        if lift >= 2.0 and ln_p <= np.log(0.001):
            sure.append((ln_p, item))
    return [item for _, item in sorted(sure)[:50]]


def log_odds(inside, all_inside, outside, all_outside):
    alpha = 20.0 * (inside + outside) / (all_inside + all_outside)
    odds = [(n + alpha) / (total + 20.0 - n - alpha) for n, total in ((inside, all_inside), (outside, all_outside))]
    return np.log(odds[0]) - np.log(odds[1]) - Z * np.sqrt(1 / (inside + alpha) + 1 / (outside + alpha))


def auc(values, tagged):
    a, b = values[tagged], values[~tagged]
    if len(a) == 0 or len(b) == 0:
        return 0.5
    return float(((a[:, None] > b).sum() + 0.5 * (a[:, None] == b).sum()) / (len(a) * len(b)))


def labels(world):
    cases, z = world.cases(False)
    tags, of_item = world.tags.names, world.tags.of_item
    counts = np.bincount([item for items in cases for item in items], minlength=len(of_item))
    seen = np.flatnonzero(counts)
    tagged = np.bincount([tag for item in seen for tag in of_item[item]], minlength=len(tags))
    in_source = {source: sum(n for (s, _), n in zip(tags, tagged) if s == source) for source, _ in tags}
    carries, at_least = world.presence(cases)
    items = [characteristic(cases, z, latent, counts) for latent in range(z.shape[1])]
    inside = [np.bincount([tag for item in of for tag in of_item[item]], minlength=len(tags)) for of in items]
    n_eligible = sum(1 for of in items if of)
    n_with = sum((of > 0).astype(int) for of in inside)
    pairs = []
    for latent in range(z.shape[1]):
        active = z[:, latent] > 0
        for tag in np.flatnonzero(inside[latent]):
            ln_items = ln_tail(len(seen), tagged[tag], len(items[latent]), inside[latent][tag])
            if ln_items <= np.log(Q):
                ln_cases = ln_tail(len(cases), carries[:, tag].sum(), active.sum(), (active & carries[:, tag]).sum())
                pairs.append((max(ln_items, ln_cases), latent, tag))
    pairs.sort()
    ln_q = [p + np.log(n_eligible * len(tags)) - np.log(rank + 1) for rank, (p, _, _) in enumerate(pairs)]
    for rank in range(len(pairs) - 2, -1, -1):
        ln_q[rank] = min(ln_q[rank], ln_q[rank + 1])
    best = {}
    for (_, latent, tag), q in zip(pairs, ln_q):
        if q > np.log(Q):
            continue
        active, carry = z[:, latent] > 0, carries[:, tag]
        n_both, source, of = int((active & carry).sum()), tags[tag][0], inside[latent]
        precision, recall = n_both / active.sum(), n_both / carry.sum()
        lift = precision / carry.mean()
        all_inside = sum(n for (s, _), n in zip(tags, of) if s == source)
        names = lift >= MIN_LIFT and precision >= MIN_PRECISION and of[tag] >= MIN_ITEMS
        line = {
            "latent": latent, "source": source, "value": tags[tag][1], "at_least": at_least[tag], "n_active": int(active.sum()),
            "items": [len(items[latent]), int(of[tag])], "precision": precision, "recall": recall, "lift": lift,
            "auc": auc(z[:, latent], carry), "ln_q_value": min(q, 0.0),
            "log_odds": log_odds(of[tag], all_inside, tagged[tag] - of[tag], in_source[source] - all_inside),
            "tf_idf": of[tag] / of.sum() * (np.log((1 + n_eligible) / (1 + n_with[tag])) + 1),
        }
        order = (not names, -line["log_odds"], tag)
        if latent not in best or order < best[latent][0]:
            best[latent] = (order, names and len(items[latent]) >= MIN_ITEMS, line)
    return [line for _, (_, names, line) in sorted(best.items()) if names]


def wilson(right, n):
    p, scale = right / n, 1 + Z * Z / n
    centre, half = p + Z * Z / (2 * n), Z * np.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)


def balanced(right, n, right_negative, n_negative):
    shares, ends = (right / n, right_negative / n_negative), (wilson(right, n), wilson(right_negative, n_negative))
    half = [0.5 * np.hypot(shares[0] - ends[0][at], shares[1] - ends[1][at]) for at in (0, 1)]
    return sum(shares) / 2, [sum(shares) / 2 - half[0], sum(shares) / 2 + half[1]]


def tests(world, named):
    cases, z = world.cases(True)
    carries, _ = world.presence(cases)
    unit = world.sae["W_dec"] / np.linalg.norm(world.sae["W_dec"], axis=1, keepdims=True)
    alive = (z > 0).any(0)
    out = {}
    for line in named:
        latent, carry = line["latent"], carries[:, world.tags.names.index((line["source"], line["value"]))]
        active = z[:, latent] > 0
        others = [other for other in np.argsort(-(unit @ unit[latent]), kind="stable") if other != latent and alive[other]][:NEAREST]
        near = (z[:, others] > 0).any(1) & ~active
        classes = {"recall": carry[active], "specificity": ~carry[~active], "specificity_nearest": ~carry[near]}
        found = {name: {"n_right": int(of.sum()), "n": len(of)} for name, of in classes.items()}
        # A class above the most that is looked at is a sample there: the shares are compared as such.
        found["whole"] = all(len(of) <= MOST_CASES for of in classes.values())
        order = np.argsort(z[active, latent], kind="stable")
        edges = [decile * len(order) // 10 for decile in range(11)]
        found["by_decile"] = [{"n_right": int(carry[active][order[a:b]].sum()), "n": b - a} for a, b in zip(edges, edges[1:])]
        if active.any() and (~active).any():
            found["balanced_accuracy"], found["interval"] = balanced(*found["recall"].values(), *found["specificity"].values())
            low, n, near = found["interval"][0], min(found["recall"]["n"], found["specificity"]["n"]), found["specificity_nearest"]
            own = near["n"] < 50 or balanced(*found["recall"].values(), *near.values())[1][0] > 0.5
            found["status"] = "verified" if n >= 50 and low >= 0.65 and own else "weak" if n >= 20 and low > 0.5 else "unverified"
        out[str(latent)] = found
    return {"n_cases": len(cases), "tests": out}


def stability(world, path):
    """One to one, the largest cosine first."""
    unit = lambda w: w / np.linalg.norm(w, axis=1, keepdims=True)
    cosines = unit(world.sae["W_dec"]) @ unit(sae_of(path)[0]["W_dec"]).T
    found, taken = np.zeros(len(cosines)), set()
    mine, theirs = np.nonzero(cosines >= LEAST_COSINE)
    done = set()
    for at in np.argsort(-cosines[mine, theirs], kind="stable"):
        i, j = mine[at], theirs[at]
        if i not in done and j not in taken:
            found[i] = cosines[i, j]
            done.add(i)
            taken.add(j)
    return found.tolist()


def families(world):
    of = np.flatnonzero((world.z > 0).sum(0) >= MIN_CASES)
    fired = (world.z[:, of] > 0).astype(float)
    rows = world.sae["W_dec"][of] / np.linalg.norm(world.sae["W_dec"][of], axis=1, keepdims=True)
    n = fired.sum(0)
    alike = np.maximum(np.maximum(rows @ rows.T, fired.T @ fired / np.sqrt(np.outer(n, n))), 0)
    np.fill_diagonal(alike, 1)
    distance = squareform((1 - alike + (1 - alike).T) / 2, checks=False)
    of_cluster = fcluster(linkage(distance, "average"), 0.5, "distance")
    groups = [of[of_cluster == cluster].tolist() for cluster in np.unique(of_cluster)]
    return sorted(group for group in groups if len(group) > 1)


def main():
    question = json.load(sys.stdin)
    world = World(question)
    named = labels(world)
    answer = {"labels": named, "verify": tests(world, named), "families": families(world), "stability": stability(world, question["other_sae"])}
    json.dump(answer, sys.stdout, default=float)


if __name__ == "__main__":
    main()
