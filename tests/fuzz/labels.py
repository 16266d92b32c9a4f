"""Readers of image-level labels, and of all JSON."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datasets.doctor.official_labels import import_official_labels
from datasets.image_labels import read_image_labels
from datasets.wilddash2 import _read_panoptic
from tests.fuzz.reading import NAMES, Target


def dump_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def of_json(read: Callable[[Path], object], *values: Any) -> Target:
    tokens = (b"{", b"}", b"[", b"]", b",", b":", b'"a"', b"0", b"-1", b"1e999", b"NaN", b"null")
    tokens += (b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b'"\\ud800"', b"\xff", b"\xef\xbb\xbf")
    return Target(".json", read, [dump_json(v) for v in values], tokens, values, dump_json)


def label_targets() -> dict[str, Target]:
    """Image-level labels: ours, the authors', and WildDash2's segments."""
    rows = [["image", "labels"], ["a.jpg", "0;road"], ["b", "1 2"], ["c", "traffic light"]]
    table = [["image", *NAMES], ["a", "0", "1", "1"]]

    def dump_csv(value: Any) -> bytes:
        text = io.StringIO()
        lines = value if isinstance(value, list) else [value]
        csv.writer(text).writerows(r if isinstance(r, list) else [r] for r in lines)
        return text.getvalue().encode(errors="surrogatepass")

    vectors = {f"city/{i}": np.eye(3, dtype=np.float32)[i] for i in range(3)}

    def dump_npy(value: Any) -> bytes:
        content = io.BytesIO()
        np.save(content, np.array(value, dtype=object), allow_pickle=True)  # written, never read
        return content.getvalue()

    segments = [{"id": 7, "category_id": 0}, {"id": 300, "category_id": 7}]
    panoptic = {
        "categories": [{"id": 0, "name": "unlabeled"}, {"id": 7, "name": "road"}],
        "annotations": [{"file_name": "a.png", "segments_info": segments}],
    }
    csv_tokens = (b",", b";", b'"', b"\n", b"\r", b"image", b"labels", b"road", b"0", b"9" * 5000)
    opcodes = tuple(bytes([code]) for code in b"(.NKJMB]}aesRtbcioqrjhP\x80\x8c\x93\x94\x95\x81")
    labels = {"a/b.jpg": [0, 2], "c": ["road"], "d": []}
    return {
        "labels-json": of_json(lambda p: read_image_labels(p, 3, NAMES), labels),
        "labels-csv": Target(
            ".csv",
            lambda p: read_image_labels(p, 3, NAMES),
            [dump_csv(rows), dump_csv(table)],
            csv_tokens,
            (rows, table),
            dump_csv,
        ),
        "labels-npy": Target(
            ".npy", import_official_labels, [dump_npy(vectors)], opcodes, (vectors,), dump_npy
        ),
        "labels-panoptic": of_json(lambda p: _read_panoptic.__wrapped__(str(p)), panoptic),
    }
