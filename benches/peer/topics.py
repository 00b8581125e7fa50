"""The records both programs read: real SASRec embeddings, a surface, the user as key.

The events of the MovieLens stream are repeated; each repetition has users of its own, as a larger
service would. The Kafka timestamp is the event time and spreads over HOURS windows of the default length.
"""
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
from confluent_kafka import Producer

SURFACES = ["home", "search", "detail", "mail"]
# Share of the traffic of each surface.
SHARES = [0.5, 0.25, 0.15, 0.1]
PARTITIONS = 4
HOURS = 6
START_MS = 1_790_000_000_000 // 3_600_000 * 3_600_000


def produce(address: str, topic: str, form: str, data: Path, n_records: int, compression: str = "none") -> int:
    """Writes the records, their batches compressed; returns the mean payload size in bytes, before compression."""
    embeddings = np.load(data / "sasrec.embeddings.npy", mmap_mode="r")
    users = pq.read_table(data / "sasrec.events.parquet", columns=["user_id"])["user_id"].to_numpy()
    surfaces = np.random.default_rng(7).choice(len(SURFACES), size=n_records, p=SHARES)
    producer = Producer({"bootstrap.servers": address, "linger.ms": 20, "batch.num.messages": 1000, "compression.type": compression,
                         "queue.buffering.max.messages": 1_000_000, "queue.buffering.max.kbytes": 262_144})
    n_bytes = 0
    for i in range(n_records):
        repetition, row = divmod(i, len(embeddings))
        surface = SURFACES[surfaces[i]]
        vector = np.asarray(embeddings[row], dtype="<f4")
        if form == "raw":
            payload, headers = vector.tobytes(), [("surface", surface.encode())]
        else:
            record = {"embedding": vector, "surface": surface}
            payload, headers = orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY), None
        n_bytes += len(payload)
        key = f"u{users[row]}-{repetition}".encode()
        event_ms = START_MS + i * HOURS * 3_600_000 // n_records
        while True:
            try:
                producer.produce(topic, payload, key, headers=headers, timestamp=event_ms)
                break
            except BufferError:
                producer.poll(0.1)
        if i % 4096 == 0:
            producer.poll(0)
    producer.flush()
    return n_bytes // n_records
