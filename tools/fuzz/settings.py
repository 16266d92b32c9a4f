"""Readers of settings: config, class file, suite file, --set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from datasets.labels import load_classes
from tools.ablation_suite import read_suite
from tools.fuzz.reading import ROOT, Target
from utils.config import config_from_dict, load_config, parse_overrides

_CONFIG = load_config(ROOT / "configs/tiny_cpu.yaml").to_dict()


def dump_yaml(value: Any) -> bytes:
    return yaml.dump(value, allow_unicode=True).encode(errors="surrogatepass")


def yaml_targets() -> dict[str, Target]:
    """Config, class file, suite file, --set."""
    tokens = (b"a", b": ", b"- ", b"\n", b"  ", b"[", b"]", b"{", b"}", b",", b"&a ", b"*a", b"? ")
    tokens += (b"!!int ", b"!!map ", b"!!bool ", b"!!set ", b"!!python/name:os.system ", b"<<: ")
    tokens += (b"2001-99-99", b"0x" + b"f" * 5000, b"1:60", b".inf", b'"\\ud800"', b"|\n", b"%YAML")
    tokens += (b"[" * 2000, b"\t", b"\xff", b"---\n", b"...", b"null", b"~", b"!!timestamp x")
    classes = {
        "classes": ["road", {"name": "car", "prompt": ["car", "bus"], "color": [0, 1, 2]}],
    }
    suite = {
        "config": str(ROOT / "configs/tiny_cpu.yaml"),
        "split": "val",
        "seeds": [0, 1],
        "make_masks": False,
        "rows": {
            "Base": {"stage": "warmup", "views": "base"},
            "Base + CARB": {"stage": "carb", "views": "base", "queue_size": 3},
        },
        "contrasts": {"CARB": [["Base + CARB", "Base"]]},
    }

    def set_one(path: Path) -> None:
        override = path.read_bytes().decode(errors="surrogateescape")
        config_from_dict(_CONFIG | parse_overrides([override]), "configs/tiny_cpu.yaml")

    def of(read: Callable[[Path], object], value: Any) -> Target:
        return Target(".yaml", read, [dump_yaml(value)], tokens, (value,), dump_yaml)

    overrides = [b"lr=1e-3", b"crop_size=[512, 512]", b"data_root=a: b#"]
    keys = tuple(f"{key}=".encode() for key in _CONFIG)
    return {
        "yaml-config": of(load_config, _CONFIG),
        "yaml-classes": of(load_classes, classes),
        "yaml-suite": of(lambda p: read_suite(str(p), []), suite),
        "yaml-set": Target(".txt", set_one, overrides, (*tokens, *keys)),
    }
