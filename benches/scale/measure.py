"""One run of the program over one topic: CPU a record and peak memory."""
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import broker
import stored
import streams
from process import run_to_end

CONFIGURATION = """[kafka]
brokers = "{address}"
topics = ["{topic}"]
group = "{group}"
workers = {workers}
[record]
format = "raw"
[[model]]
bundle = "{bundle}"
[segments]
fields = ["segment"]
max = 128
[segments.values]
segment = {values}
[counting]
max_entities = 2000000
[store]
path = "{folder}/recsae.db"
[metrics]
listen = "127.0.0.1:{metrics}"
[http]
listen = "127.0.0.1:{http}"
"""


@dataclass
class Place:
    """Where runs take place."""

    recsae: Path
    address: str
    folder: Path
    saes: object
    written: set = field(default_factory=set)

    def topic(self, stream: streams.Stream) -> str:
        if stream.topic not in self.written:
            streams.produce(self.address, stream)
            self.written.add(stream.topic)
        return stream.topic


def configure(point, where: Place, topic: str, folder: Path) -> tuple[Path, int]:
    """Writes the configuration; returns it and the port of /metrics."""
    metrics, http = broker.free_ports(2)
    values = "[" + ", ".join(f'"v{n}"' for n in range(point.segments)) + "]"
    path = folder / "recsae.toml"
    path.write_text(CONFIGURATION.format(address=where.address, topic=topic, group=folder.name, workers=point.workers,
                                         bundle=where.saes.bundle(point.latents), values=values, folder=folder, metrics=metrics, http=http))
    return path, metrics


def run(point, where: Place) -> tuple[float, float]:
    """(CPU us a record, peak MiB) of a run over the whole topic."""
    stream = point.stream()
    topic, wanted = where.topic(stream), stream.n_records
    with tempfile.TemporaryDirectory(dir=where.folder) as own:
        folder = Path(own)
        path, metrics = configure(point, where, topic, folder)
        cpu, peak = run_to_end(where.recsae, path, metrics)
        n_records = stored.totals(folder / "recsae.db")[0]
        log = path.with_suffix(".log").read_text()
        if n_records != wanted:
            sys.exit(f"benches/scale: {topic}: {n_records} of {wanted} records stored:\n{log[-3000:]}")
        if stream.before and (fitted := stored.reference_windows(folder / "recsae.db")) < stream.before:
            sys.exit(f"benches/scale: {topic}: a reference of {fitted} windows where {stream.before} came:\n{log[-3000:]}")
    return cpu / wanted * 1e6, peak / 1024
