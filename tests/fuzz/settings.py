"""Readers of settings: config, class file, --set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from datasets.labels import load_classes
from tests.fuzz.reading import ROOT, Target
from utils.config import config_from_dict, load_config, parse_overrides

_CONFIG = load_config(ROOT / "configs/tiny_cpu.yaml").to_dict()
YAML_TOKENS = (b"a", b": ", b"- ", b"\n", b"  ", b"[", b"]", b"{", b"}", b",", b"&a ", b"*a", b"? ")
YAML_TOKENS += (b"!!int ", b"!!map ", b"!!bool ", b"!!set ", b"!!python/name:os.system ", b"<<: ")
YAML_TOKENS += (
    b"2001-99-99",
    b"0x" + b"f" * 5000,
    b"1:60",
    b".inf",
    b'"\\ud800"',
    b"|\n",
    b"%YAML",
)
YAML_TOKENS += (b"[" * 2000, b"\t", b"\xff", b"---\n", b"...", b"null", b"~", b"!!timestamp x")


def dump_yaml(value: Any) -> bytes:
    return yaml.dump(value, allow_unicode=True).encode(errors="surrogatepass")


def of_yaml(read: Callable[[Path], object], value: Any) -> Target:
    return Target(".yaml", read, [dump_yaml(value)], YAML_TOKENS, (value,), dump_yaml)


def yaml_targets() -> dict[str, Target]:
    """Config, class file, --set."""
    classes = {
        "classes": ["road", {"name": "car", "prompt": ["car", "bus"], "color": [0, 1, 2]}],
    }

    def set_one(path: Path) -> None:
        override = path.read_bytes().decode(errors="surrogateescape")
        config_from_dict(_CONFIG | parse_overrides([override]), "configs/tiny_cpu.yaml")

    overrides = [b"lr=1e-3", b"crop_size=[512, 512]", b"data_root=a: b#"]
    keys = tuple(f"{key}=".encode() for key in _CONFIG)
    return {
        "yaml-config": of_yaml(load_config, _CONFIG),
        "yaml-classes": of_yaml(load_classes, classes),
        "yaml-set": Target(".txt", set_one, overrides, (*YAML_TOKENS, *keys)),
    }
