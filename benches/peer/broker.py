"""Apache Kafka in a process and folder of its own, on free ports, gone when this program is."""
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic

PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
"""


def free_ports(n: int) -> list[int]:
    """Ports that were free a moment ago; held together, so that they differ."""
    sockets = [socket.socket() for _ in range(n)]
    for held in sockets:
        held.bind(("127.0.0.1", 0))
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


@contextlib.contextmanager
def kafka(jars: Path):
    """Starts a broker, yields its address, stops it and removes its folder."""
    if not jars.is_dir() or shutil.which("java") is None:
        sys.exit("benches/peer: no Apache Kafka or no Java: run `make setup`")
    folder = Path(tempfile.mkdtemp(prefix="recsae-bench-"))
    plain, controller = free_ports(2)
    (folder / "server.properties").write_text(PROPERTIES.format(folder=folder, plain=plain, controller=controller))
    java = ["java", "-Xmx1g", "-XX:+UseSerialGC", "-cp", f"{jars}/*"]
    settings = str(folder / "server.properties")
    format_ = ["kafka.tools.StorageTool", "format", "--standalone", "-t", "cmVjc2FlLXRlc3QtYnJva2Vy", "-c", settings]
    subprocess.run([*java, *format_], check=True, capture_output=True)
    with open(folder / "kafka.log", "wb") as log:
        broker = subprocess.Popen([*java, "kafka.Kafka", settings], stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"127.0.0.1:{plain}"
        wait_until_up(address, folder / "kafka.log")
        yield address
    finally:
        os.kill(broker.pid, signal.SIGKILL)
        broker.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_up(address: str, log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            AdminClient({"bootstrap.servers": address, "log_level": 0}).list_topics(timeout=2)
            return
        except Exception as error:  # confluent_kafka raises KafkaException while nobody listens
            if time.monotonic() > deadline:
                sys.exit(f"benches/peer: Kafka is not up: {error}\n{log.read_text(errors='replace')[-2000:]}")


def create_topic(address: str, topic: str, partitions: int) -> None:
    """Creates a topic that keeps its records whatever their timestamps say."""
    # Named, so that it lives until the answer is there.
    client = AdminClient({"bootstrap.servers": address})
    made = client.create_topics([NewTopic(topic, partitions, 1, config={"retention.ms": "-1"})])
    made[topic].result(30)
