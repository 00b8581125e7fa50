"""What a recsae store says was counted, read without recsae: SQLite, zstd and MessagePack."""
import sqlite3
import struct
from pathlib import Path

import pyarrow as pa


def totals(store: Path) -> tuple[int, int]:
    """(records, activations) of all judged windows, segment `_all`."""
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    n_records = n_active = 0
    for (blob,) in connection.execute("SELECT counts FROM judged_models"):
        window = Reader(pa.input_stream(pa.py_buffer(blob), compression="zstd").read()).value()
        counts = window["segments"].get("_all")
        if counts is not None:
            n_records += counts["records"]
            n_active += counts["contract"]["n_active"]
            fired = sum(counts["fired"][2])
            assert fired == counts["contract"]["n_active"], "the latents' counts do not add up"
    return n_records, n_active


def reference_windows(store: Path) -> int:
    """Windows of the largest reference; 0 without one."""
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    return connection.execute("SELECT coalesce(max(windows), 0) FROM reference_models").fetchone()[0]


class Reader:
    """MessagePack, as far as a store uses it."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, form: str):
        value = struct.unpack_from(">" + form, self.data, self.at)[0]
        self.at += struct.calcsize(form)
        return value

    def text(self, n: int) -> str:
        self.at += n
        return self.data[self.at - n : self.at].decode()

    def binary(self, n: int) -> bytes:
        self.at += n
        return self.data[self.at - n : self.at]

    def array(self, n: int) -> list:
        return [self.value() for _ in range(n)]

    def map(self, n: int) -> dict:
        return {self.value(): self.value() for _ in range(n)}

    def value(self):
        tag = self.take("B")
        if tag < 0x80:
            return tag
        if tag >= 0xE0:
            return tag - 0x100
        for first, last, read in ((0x80, 0x8F, self.map), (0x90, 0x9F, self.array), (0xA0, 0xBF, self.text)):
            if first <= tag <= last:
                return read(tag - first)
        simple = {0xC0: None, 0xC2: False, 0xC3: True}
        if tag in simple:
            return simple[tag]
        numbers = {0xCA: "f", 0xCB: "d", 0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q", 0xD0: "b", 0xD1: "h", 0xD2: "i", 0xD3: "q"}
        if tag in numbers:
            return self.take(numbers[tag])
        sized = {0xC4: ("B", self.binary), 0xC5: ("H", self.binary), 0xC6: ("I", self.binary), 0xD9: ("B", self.text),
                 0xDA: ("H", self.text), 0xDB: ("I", self.text), 0xDC: ("H", self.array), 0xDD: ("I", self.array),
                 0xDE: ("H", self.map), 0xDF: ("I", self.map)}
        form, read = sized[tag]
        return read(self.take(form))
