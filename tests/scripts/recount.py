"""Counts of one window from its Kafka offsets, in numpy, against what the store holds.

usage: recount.py ASKED.json ({brokers, topic, offsets: [[partition, from, to]], weights, k, from_ms, to_ms, and the stored counts})
A latent may differ only in rows where the k-th and the next value are within 1e-6 of each other; at most 2 such rows.
"""
import json
import sys
from collections import defaultdict

import numpy as np
from confluent_kafka import Consumer, TopicPartition
from safetensors.numpy import load_file

LOWER = [1, 2, 3, 4, 5, 7, 9, 13, 19, 28, 45, 80]
asked = json.load(open(sys.argv[1]))
consumer = Consumer({"bootstrap.servers": asked["brokers"], "group.id": "numpy", "enable.auto.commit": False})
rows = []
for partition, first, end in asked["offsets"]:
    consumer.assign([TopicPartition(asked["topic"], partition, first)])
    at = first
    while at < end:
        message = consumer.poll(10)
        assert message is not None and not message.error(), (partition, at, message and message.error())
        at = message.offset() + 1
        if at <= end:
            rows.append(json.loads(message.value()))
rows = [row for row in rows if asked["from_ms"] <= row["timestamp"] < asked["to_ms"]]

w = {name: tensor.astype(np.float64) for name, tensor in load_file(asked["weights"]).items()}
x = np.array([row["embedding"] for row in rows], dtype=np.float32).astype(np.float64)
pre = np.maximum((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"], 0)
order = np.argsort(-pre, axis=1, kind="stable")
k = asked["k"]
last, following = (np.take_along_axis(pre, order[:, [i]], 1)[:, 0] for i in (k - 1, k))
ties = int(np.sum((last > 0) & (last - following < 1e-6 * last)))

fired, presence, home = (np.zeros(pre.shape[1], int) for _ in range(3))
of_user, of_home, visits = defaultdict(set), defaultdict(set), defaultdict(int)
for i, row in enumerate(rows):
    top = [j for j in order[i, :k] if pre[i, j] > 0]
    fired[top] += 1
    of_user[row["entity"]].update(top)
    visits[row["entity"]] += 1
    if row["surface"] == "home":
        of_home[row["entity"]].update(top)
for latents in of_user.values():
    presence[list(latents)] += 1
for latents in of_home.values():
    home[list(latents)] += 1
entities = [0] * len(LOWER)
for n in visits.values():
    entities[sum(edge <= n for edge in LOWER) - 1] += 1

wide = lambda values: np.array(list(values) + [0] * (pre.shape[1] - len(values)))
differ = sum(int(np.abs(a - wide(asked[name])).sum()) for name, a in (("fired", fired), ("presence", presence), ("home", home)))
print(f"{len(rows)} records, {len(of_user)} entities, {ties} near-ties, {differ} counts differ")
sys.exit(0 if len(rows) == asked["records"] and entities == asked["entities"] and differ <= 6 * ties and ties <= 2 else 1)
