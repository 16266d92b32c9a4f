"""The suite file of tools/ablation.py: rows of settings, seeds and contrasts, all checked."""

import difflib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config import Config, config_from_dict, parse_overrides
from utils.errors import InputError
from utils.resume import CARB_KEYS
from utils.yaml_file import read_yaml

STAGES = ("supervised", "warmup", "carb")
KEYS = ("config", "split", "seeds", "make_masks", "set", "rows", "contrasts")
# What a row may not set, and who does.
DECIDED = {
    "seed": "'seeds' of the suite and --seeds do",
    "carb": "a row's stage does",
    "steps": "all rows take the same number; put it under 'set' or give --set steps=N",
}


@dataclass(frozen=True)
class Row:
    """One row of the table: the script that trains it and what it changes in the config."""

    name: str
    stage: str
    settings: dict[str, Any]

    @property
    def slug(self) -> str:
        """The name as a folder's: 'Base + CARB' -> base_carb."""
        return re.sub(r"[^a-z0-9.]+", "_", self.name.lower()).strip("_.")


@dataclass(frozen=True)
class Suite:
    """A suite file with the command line's --set in `settings`; `values` are the config file's."""

    path: str
    config: str
    split: str
    seeds: list[int]
    make_masks: bool
    settings: dict[str, Any]
    rows: dict[str, Row]
    contrasts: dict[str, list[list[str]]]
    values: dict[str, Any]

    def overrides(self, row: Row, seed: int, stage: str | None = None) -> dict[str, Any]:
        """All that `row` changes in the config file; `stage` warmup: of the warm-up it needs.

        A run without CARB leaves CARB's keys alone, so that rows which differ only there share it.
        """
        stage = stage or row.stage
        own = {k: v for k, v in row.settings.items() if stage == "carb" or k not in CARB_KEYS}
        return self.settings | own | {"carb": stage == "carb", "seed": seed}

    def config_of(self, row: Row, seed: int, stage: str | None = None) -> Config:
        """The resolved config of a run. Raises InputError naming the row."""
        source = f"{self.path}: row '{row.name}'"
        return config_from_dict(self.values | self.overrides(row, seed, stage), source)

    def warmup_names(self) -> dict[str, str]:
        """{row that starts from a warm-up or is one: name of the run that makes it, less seed}.

        That is the plain row (stage: warmup) of equal settings, else a run of its own.
        """
        makers: dict[str, str] = {}
        for stage in ("warmup", "carb"):
            for row in self.rows.values():
                if row.stage == stage:
                    name = row.slug if stage == "warmup" else f"{row.slug}_warmup"
                    makers.setdefault(self._key(row, "warmup"), name)
        return {
            row.name: makers[self._key(row, "warmup")]
            for row in self.rows.values()
            if row.stage != "supervised"
        }

    def _key(self, row: Row, stage: str) -> str:
        return json.dumps(self.config_of(row, 0, stage).to_dict())


def read_suite(path: str, overrides: list[str]) -> Suite:
    """Read and check a suite file; `overrides` are the key=value of the command line.

    Raises InputError naming the file, the key and, for an unknown one, the nearest valid one.
    """
    if not Path(path).is_file():
        raise InputError(f"no suite file at {path}; configs/demo_ablation.yaml is one")
    content = _mapping(path, read_yaml(path), "the file")
    for key in content:
        check_known(path, "key", key, KEYS)
    missing = [key for key in KEYS if key not in content]
    if missing:
        raise InputError(
            f"{path}: missing {', '.join(missing)}; configs/demo_ablation.yaml has every key"
        )
    rows = {
        name: _row(path, name, _mapping(path, row, f"row '{name}'"))
        for name, row in _mapping(path, content["rows"], "'rows'").items()
    }
    _expect(path, "rows", bool(rows), "at least one row", rows)
    _expect(path, "split", isinstance(content["split"], str), "a name", content["split"])
    _expect(
        path,
        "make_masks",
        isinstance(content["make_masks"], bool),
        "true or false",
        content["make_masks"],
    )
    config = content["config"]
    if not (isinstance(config, str) and Path(config).is_file()):
        raise InputError(f"{path}: 'config' must name a config file, found {config}")
    settings = _mapping(path, content["set"] or {}, "'set'")
    for key in settings:
        if key in ("seed", "carb"):
            raise InputError(f"{path}: 'set' can't decide {key}: {DECIDED[key]}")
    given = parse_overrides(overrides)
    for key in given:
        owner = next((row.name for row in rows.values() if key in row.settings), None)
        if key in ("seed", "carb") or owner:
            reason = f"row '{owner}' of {path} does" if owner else DECIDED[key]
            raise InputError(f"--set {key} can't be decided for all rows: {reason}")
    suite = Suite(
        path=path,
        config=config,
        split=content["split"],
        seeds=check_seeds(content["seeds"], f"{path}: 'seeds'"),
        make_masks=content["make_masks"],
        settings=settings | given,
        rows=rows,
        contrasts=_contrasts(path, content["contrasts"], rows),
        values=_mapping(config, read_yaml(config), "the file"),
    )
    _check_different(suite)
    return suite


def check_seeds(seeds: Any, source: str) -> list[int]:
    """A list of different whole numbers, else InputError."""
    numbers = isinstance(seeds, list) and all(type(s) is int and s >= 0 for s in seeds)
    if not (numbers and seeds and len(set(seeds)) == len(seeds)):
        raise InputError(f"{source} must be different whole numbers, [0, 1, 2] say; found {seeds}")
    return seeds


def check_known(source: str, kind: str, name: Any, known: Collection[str]) -> None:
    """Raise InputError with the nearest of `known` when `name` is none of them."""
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
        raise InputError(f"{source}: unknown {kind} '{name}'; {hint}")


def _row(path: str, name: Any, values: dict[str, Any]) -> Row:
    stage = values.get("stage")
    if stage not in STAGES:
        raise InputError(
            f"{path}: row '{name}': 'stage' must be one of {', '.join(STAGES)}, found {stage}"
        )
    settings = {key: value for key, value in values.items() if key != "stage"}
    for key in settings:
        if key in DECIDED:
            raise InputError(f"{path}: row '{name}' can't decide {key}: {DECIDED[key]}")
    return Row(name, stage, settings)


def _contrasts(path: str, content: Any, rows: dict[str, Row]) -> dict[str, list[list[str]]]:
    contrasts = _mapping(path, content or {}, "'contrasts'")
    for title, pairs in contrasts.items():
        good = isinstance(pairs, list) and all(
            isinstance(pair, list) and len(pair) == 2 for pair in pairs
        )
        _expect(path, f"contrasts: {title}", good, "a list of [row, minus row]", pairs)
        for pair in pairs:
            for name in pair:
                check_known(f"{path}: contrast '{title}'", "row", name, rows)
    return contrasts


def _check_different(suite: Suite) -> None:
    """No two rows with one folder or of one making; every config is valid."""
    folders: dict[str, str] = {}
    makings: dict[str, str] = {}
    for row in suite.rows.values():
        suite.config_of(row, suite.seeds[0])
        making = f"{row.stage} {suite._key(row, row.stage)}"
        for taken, key, what in ((folders, row.slug, "folder"), (makings, making, "run")):
            if not key or key in taken:
                other = f"'{taken[key]}' and " if key else ""
                raise InputError(f"{suite.path}: rows {other}'{row.name}' would be the same {what}")
            taken[key] = row.name


def _mapping(path: str, value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{path}: {what} must be 'name: value' lines, found {value}")
    return value


def _expect(path: str, key: str, good: bool, expected: str, found: Any) -> None:
    if not good:
        raise InputError(f"{path}: '{key}' must be {expected}, found {found}")
