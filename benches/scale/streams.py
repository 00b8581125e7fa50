"""Topics of the scale bench: Gaussian vectors as raw f32, a header for the segment, the entity as key."""
from dataclasses import dataclass

import broker
import numpy as np
from confluent_kafka import Producer

DIMENSION = 64
# Distinct vectors, repeated: what a record costs does not depend on whether its vector came before.
VECTORS = 20_000
START_MS = 1_790_000_000_000 // 3_600_000 * 3_600_000
HOUR_MS = 3_600_000
# Records of a window before the others: what a reference is fitted to.
OF_A_WINDOW_BEFORE = 2_400


@dataclass(frozen=True)
class Stream:
    """What a topic holds."""

    segments: int
    entities: int
    partitions: int
    records: int
    windows: int
    # Small windows that come first.
    before: int = 0

    @property
    def topic(self) -> str:
        return f"s{self.segments}-e{self.entities}-p{self.partitions}-n{self.records}-w{self.windows}-b{self.before}"

    @property
    def n_records(self) -> int:
        return self.before * OF_A_WINDOW_BEFORE + self.records

    def timestamp(self, i: int) -> int:
        n_before = self.before * OF_A_WINDOW_BEFORE
        if i < n_before:
            return START_MS + i * HOUR_MS // OF_A_WINDOW_BEFORE
        return START_MS + self.before * HOUR_MS + (i - n_before) * self.windows * HOUR_MS // self.records


def vectors() -> list[bytes]:
    rows = np.random.default_rng(11).standard_normal((VECTORS, DIMENSION)).astype("<f4")
    return [row.tobytes() for row in rows]


def producer(address: str, linger_ms: int = 20) -> Producer:
    return Producer({"bootstrap.servers": address, "linger.ms": linger_ms, "enable.idempotence": True, "batch.num.messages": 1000,
                     "queue.buffering.max.messages": 1_000_000, "queue.buffering.max.kbytes": 262_144})


def produce(address: str, stream: Stream) -> None:
    """Creates the topic and writes it; records of each entity are spread over its window."""
    broker.create_topic(address, stream.topic, stream.partitions)
    payloads, out = vectors(), producer(address)
    keys = [f"u{entity}".encode() for entity in range(stream.entities)]
    headers = [[("segment", f"v{segment}".encode())] for segment in range(stream.segments)]
    # Drawn, so that every segment has records of every kind of entity.
    segment_of = np.random.default_rng(12).integers(stream.segments, size=stream.n_records)
    assert len(set(segment_of.tolist())) == stream.segments
    for i in range(stream.n_records):
        entity = i * 7919 % stream.entities
        while True:
            try:
                out.produce(stream.topic, payloads[i % VECTORS], keys[entity], headers=headers[segment_of[i]],
                            timestamp=stream.timestamp(i))
                break
            except BufferError:
                out.poll(0.1)
        if i % 4096 == 0:
            out.poll(0)
    out.flush()
