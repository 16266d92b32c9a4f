"""The suite file of experiments/ablation.py: rows of settings, seeds and contrasts, all checked."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from string import Formatter
from typing import Any

from experiments.methods import (
    METHODS,
    NEEDS_CAMS,
    READS_CAMS,
    SAVE_CAMS,
    SECOND_STAGE,
    TRAINING_FREE,
)
from utils.config import (
    CARB,
    Config,
    config_from_dict,
    keys_of,
    override,
    parse_overrides,
    read_settings,
)
from utils.safe.errors import InputError
from utils.safe.paths import expand
from utils.safe.yaml_file import read_yaml

STAGES = ("masks", "supervised", "warmup", "carb")
KEYS = ("config", "split", "seeds", "make_masks", "rows", "contrasts")
OPTIONAL = ("prepare", "by_class", "settings", "against")
# Keys that a row may not set, and the reason.
DECIDED = {
    "seed": "'seeds' of the suite and --seeds do",
    "carb": "the row's stage does",
    "steps": "all rows take the same number; use --set steps=N",
}


def slug(name: str) -> str:
    """A row's name as a part of a file name: 'Base + CARB' -> base_carb."""
    return re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_.")


@dataclass(frozen=True)
class Row:
    """One row of the table: its stage and the config values it changes.

    stage: of `STAGES`, or a method of `METHODS`; options: of the method's command line;
    learns_from: of a second stage (a warm-up or CARB), the row of its masks; cams: of a method that
    reads maps of another, that row.
    """

    name: str
    stage: str
    settings: dict[str, Any]
    options: tuple[str, ...] = ()
    learns_from: str | None = None
    cams: str | None = None

    @property
    def of_method(self) -> bool:
        """Whether a method's options or masks decide the run: its config does not say all."""
        return self.stage in METHODS or self.learns_from is not None

    @property
    def seedless(self) -> bool:
        """Whether all seeds give the same."""
        return self.stage in ("masks", *TRAINING_FREE)

    @property
    def needs(self) -> list[str]:
        """The rows whose masks of the training split must be there first."""
        return [name for name in (self.learns_from, self.cams) if name is not None]

    @property
    def is_masks(self) -> bool:
        """Whether masks are scored, not a network."""
        return self.stage == "masks" or METHODS.get(self.stage) == "masks"

    @property
    def slug(self) -> str:
        """The name as a folder name."""
        return slug(self.name)

    def folder(self, seed: int) -> str:
        """Name of the run folder; what has no seed has one for all seeds."""
        if self.stage == "masks":
            return f"{self.slug}-masks"
        seed = 0 if self.seedless else seed
        start = "-start" if self.stage == "start" else ""  # no slug has a '-'
        return f"{self.slug}{start}_{seed}"


@dataclass(frozen=True)
class Suite:
    """A suite file and the settings of the command line."""

    path: str
    config: str
    split: str
    seeds: list[int]
    make_masks: bool
    settings: dict[str, Any]  # for all rows: of the file, then of the command line
    rows: dict[str, Row]
    contrasts: dict[str, list[list[str]]]
    values: dict[str, Any]  # of the config file
    prepare: dict[str, str] = field(default_factory=dict)  # config key -> command for its file
    by_class: list[list[str]] = field(default_factory=list)  # [row, minus row] of IoU by class
    against: dict[str, list[str]] = field(default_factory=dict)  # plain row -> rows compared to it

    def settings_of(self, row: Row, seed: int) -> dict[str, Any]:
        """All values of the config file that a run changes.

        A run without CARB ignores CARB's keys: rows that differ only there share its warm-up.
        """
        both = self.settings | row.settings
        used = {k: v for k, v in both.items() if row.stage == "carb" or k not in keys_of(CARB)}
        seed = 0 if row.seedless else seed
        return used | {"carb": row.stage in ("carb", "start"), "seed": seed}

    def config_of(self, row: Row, seed: int) -> Config:
        """The resolved config of a run. Raises InputError naming the row."""
        source = f"{self.path}: row '{row.name}'"
        return config_from_dict(override(self.values, self.settings_of(row, seed)), source)

    def making(self, row: Row) -> str:
        """A text that is equal for runs that differ only in the seed."""
        config = self.config_of(row, 0).to_dict()
        parts = [row.stage, *row.options, row.learns_from, row.cams, config]
        return json.dumps(parts)

    def check_prepared(self, rows: Iterable[Row]) -> None:
        """Raise InputError, with what to run, where a row's file of a key of `prepare` is missing.

        The commands are those of the first row; a row with files of its own has its commands at the
        top of the suite file.
        """
        first = self.config_of(next(iter(self.rows.values())), 0)
        for (key, command), row in product(self.prepare.items(), rows):
            file = getattr(self.config_of(row, 0), key)
            how = f"make it: {command.format_map(first.to_dict())}"
            if file != getattr(first, key):
                how = f"the commands at the top of {self.path} make it for '{row.name}'"
            check(Path(file).exists(), f"{key}: no {file}; {how}")

    def start_row(self, row: Row) -> Row:
        """The row that makes the warm-up of `row`, a row with CARB.

        It is the row without CARB that has equal settings. If the suite has none, it is a row of
        stage "start", which is not in the table: the warm-up alone, made once for all rows that
        differ only in CARB's keys, and named after the first of them.
        """
        making = self.making(replace(row, stage="warmup"))
        plain = [other for other in self.rows.values() if self.making(other) == making]
        if plain:
            return plain[0]
        starts = [replace(r, stage="start") for r in self.rows.values() if r.stage == "carb"]
        making = self.making(replace(row, stage="start"))
        return next(start for start in starts if self.making(start) == making)


def read_suite(path: str, settings: list[str]) -> Suite:
    """Read and check a suite file; `settings` are the key=value of the command line.

    Raises InputError naming the file and what is wrong in it.
    """
    check(Path(path).is_file(), f"no suite file at {path}; see experiments/suites/ for examples")
    content = _mapping(path, read_yaml(path), "the file")
    if isinstance(content.get("config"), str):
        content["config"] = expand(content["config"])
    keys = f"{path}: expected the keys {', '.join(KEYS)}; found {', '.join(content)}"
    check(set(KEYS) <= content.keys() <= {*KEYS, *OPTIONAL}, keys)
    for key, good, expected in (
        ("config", _is_file, "name a config file"),
        ("split", lambda v: v in ("train", "val", "test"), "be train, val or test"),
        ("make_masks", lambda v: isinstance(v, bool), "be true or false"),
    ):
        check(good(content[key]), f"{path}: '{key}' must {expected}, found {content[key]}")
    rows = {
        name: _row(path, name, _mapping(path, row, f"row '{name}'"))
        for name, row in _mapping(path, content["rows"], "'rows'").items()
    }
    check(bool(rows), f"{path}: 'rows' is empty")
    _find_masks(path, rows)
    _check_cams(path, rows)
    check_seeds(content["seeds"], f"{path}: 'seeds'")
    for title, pairs in _mapping(path, content["contrasts"], "'contrasts'").items():
        _check_pairs(f"{path}: contrast '{title}'", pairs, rows)
    _check_pairs(f"{path}: 'by_class'", content.get("by_class", []), rows)
    content["against"] = _against(path, content.get("against", {}), rows)
    values = read_settings(content["config"])
    shared = _mapping(path, content.get("settings", {}), "'settings'")
    content |= {"path": path, "settings": shared | parse_overrides(settings), "rows": rows}
    suite = Suite(values=values, **content)
    _check_prepare(suite)
    for key in suite.settings:
        owner = next((row.name for row in rows.values() if key in row.settings), None)
        reason = f"row '{owner}' of {path} does" if owner else DECIDED.get(key)
        free = key == "steps" or not reason
        check(free, f"--set can't decide {key} for all rows: {reason}")
    _check_rows(suite)
    return suite


def _is_file(value: Any) -> bool:
    try:
        return isinstance(value, str) and Path(value).is_file()
    except OSError:  # a name longer than the file system allows
        return False


def as_arguments(settings: dict[str, Any]) -> list[str]:
    """Settings as --set arguments of the scripts; JSON is one-line YAML."""
    texts = [f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in settings.items()]
    return [part for text in texts for part in ("--set", text)]


def check(good: bool, message: str) -> None:
    """Raise InputError with `message` unless `good`."""
    if not good:
        raise InputError(message)


def check_seeds(seeds: Any, source: str) -> list[int]:
    """Return `seeds`, a list of different whole numbers; anything else raises InputError."""
    good = isinstance(seeds, list) and all(type(s) is int and s >= 0 for s in seeds)
    good = good and len(set(seeds)) == len(seeds) > 0
    check(good, f"{source} must be different whole numbers, e.g. [0, 1, 2]; found {seeds}")
    return seeds


def _row(path: str, name: str, values: dict[str, Any]) -> Row:
    """A row of `stage` or of `method`; `learns_from` of a second stage is still its stage."""
    source, settings = f"{path}: row '{name}'", dict(values)
    stage, method = settings.pop("stage", None), settings.pop("method", None)
    options, second = settings.pop("options", []), settings.pop("second_stage", False)
    cams = settings.pop("cams", None)
    if method is None:
        stages = ", ".join(STAGES)
        check(stage in STAGES, f"{source}: 'stage' must be one of {stages}, found {stage}")
        free = not options and not second and cams is None
        check(free, f"{source}: 'options', 'second_stage' and 'cams' need a 'method'")
    else:
        known = ", ".join([*METHODS, "supervised"])
        check(method in [*METHODS, "supervised"], f"{source}: no method {method}; known: {known}")
        check(stage is None, f"{source} has 'stage' and 'method'; give one of them")
        check(method in METHODS or not options, f"{source}: {method} takes no 'options'")
        stage = method
    good = isinstance(options, list) and all(isinstance(one, str | int | float) for one in options)
    check(good, f"{source}: 'options' must be a list of words and numbers, found {options}")
    makes_masks = METHODS.get(stage) == "masks"
    check(not second or makes_masks, f"{source}: 'second_stage' needs a method that makes masks")
    known = isinstance(second, bool) or second == "carb"
    check(known, f"{source}: 'second_stage' must be true, false or carb, found {second}")
    for key in settings:
        check(key not in DECIDED, f"{source} can't decide {key}: {DECIDED.get(key)}")
    learns_from = {True: "warmup", "carb": "carb"}.get(second)
    return Row(name, stage, settings, tuple(map(str, options)), learns_from, cams)


def _find_masks(path: str, rows: dict[str, Row]) -> None:
    """Turn each row with `second_stage` into a training on the masks of its own row.

    CARB's keys of such a row are of the training, all others of the method.
    """
    for name, row in rows.items():
        if row.learns_from is None:
            continue
        carb = {key: value for key, value in row.settings.items() if key in keys_of(CARB)}
        method = replace(
            row,
            settings={key: row.settings[key] for key in row.settings if key not in carb},
            learns_from=None,
        )
        same = (one.name for one in rows.values() if one == replace(method, name=one.name))
        masks = next(same, None)
        needed = "a row with the same method, options and keys, but without second_stage"
        check(masks is not None, f"{path}: row '{name}' needs {needed}, whose masks it learns from")
        rows[name] = Row(name, row.learns_from, SECOND_STAGE | carb, (), masks)


def _check_cams(path: str, rows: dict[str, Row]) -> None:
    """Raise InputError where `cams` names no row that saves maps, or a method lacks it."""
    saving = [r.name for r in rows.values() if r.is_masks and SAVE_CAMS in r.options]
    for row in rows.values():
        source = f"{path}: row '{row.name}'"
        if row.cams is None:
            lacks = row.stage in NEEDS_CAMS
            check(not lacks, f"{source}: {row.stage} needs 'cams', a row that has {SAVE_CAMS}")
            continue
        reads = ", ".join(READS_CAMS)
        check(row.stage in READS_CAMS, f"{source}: 'cams' is for {reads}, found {row.stage}")
        rows_with = f"a row of a method with the option {SAVE_CAMS} ({', '.join(saving)})"
        check(row.cams in saving, f"{source}: 'cams' must name {rows_with}, found {row.cams}")


def _check_prepare(suite: Suite) -> None:
    for key, command in _mapping(suite.path, suite.prepare, "'prepare'").items():
        source = f"{suite.path}: 'prepare', {key}"
        config = suite.config_of(next(iter(suite.rows.values())), 0).to_dict()
        check(
            isinstance(config.get(key), str), f"{source}: expected a key of the config with a path"
        )
        check(isinstance(command, str), f"{source}: expected a command, found {command}")
        try:
            named = {name for _, name, _, _ in Formatter().parse(command) if name is not None}
        except ValueError:
            named = {command}
        unknown = ", ".join(sorted(named - config.keys()))
        check(not unknown, f"{source}: braces hold keys of the config, found {unknown}")


def _check_pairs(source: str, pairs: Any, rows: dict[str, Row]) -> None:
    good = isinstance(pairs, list) and all(isinstance(p, list) and len(p) == 2 for p in pairs)
    check(good, f"{source} must be a list of [row, minus row], found {pairs}")
    for name in (name for pair in pairs for name in pair):
        known = isinstance(name, str) and name in rows
        check(known, f"{source}: no row '{name}'; expected {', '.join(rows)}")


def _against(path: str, value: Any, rows: dict[str, Row]) -> dict[str, list[str]]:
    """Plain row -> rows that may lose classes against it; a name alone: all other rows may."""
    if isinstance(value, str):
        value = {value: [name for name in rows if name != value]}
    groups = _mapping(path, value, "'against'")
    for plain, others in groups.items():
        source = f"{path}: 'against', {plain}"
        check(isinstance(others, list), f"{source}: expected a list of rows, found {others}")
        _check_pairs(source, [[name, plain] for name in [plain, *others]], rows)
    return groups


def _check_rows(suite: Suite) -> None:
    """Raise InputError for an invalid config, or for two rows with the same folder or settings."""
    taken: dict[tuple[str, str], str] = {}
    for row in suite.rows.values():
        for key in (("folder", row.slug), ("run", suite.making(row))):
            other = taken.setdefault(key, row.name)
            same = f"rows '{other}' and '{row.name}' would be the same {key[0]}"
            check(other == row.name and bool(key[1]), f"{suite.path}: {same}")


def _mapping(path: str, value: Any, what: str) -> dict[str, Any]:
    good = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    check(good, f"{path}: {what} must be 'name: value' lines, found {value}")
    return value
