"""Which rows of a suite are a sweep: of patch sizes, fixed weights or resize ratios."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.figures.runs import Suite
from experiments.figures.style import BLUE, ORANGE, YELLOW

_LEAST = 3  # rows make a sweep
_SUITE = "experiments/suites/cityscapes_{0}.yaml"
_DEMO = "SUITE=demo_{0} bash scripts/demo_ablation.sh"
_CITY = f"python -m experiments.ablation {_SUITE} --out runs/cityscapes_{{0}}"

Rows = dict[str, dict[str, Any]]  # name of a row -> its settings


class Line(NamedTuple):
    """Rows by their place on the x axis."""

    label: str
    rows: dict[float, str]
    colour: str
    marker: str = "o"  # "*" stands alone, the others are joined


class Sweep(NamedTuple):
    xlabel: str
    lines: list[Line]
    level: tuple[str, str] | None = None  # label and row of a horizontal line


class Kind(NamedTuple):
    """`sort` takes rows that are alike in all but `keys`; `commands` run such a sweep."""

    name: str
    title: str
    keys: tuple[str, ...]
    sort: Callable[[Rows], Sweep]
    commands: dict[str, str]


def find(suite: Suite, kind: Kind) -> list[Sweep]:
    """The sweeps of a kind, over rows that have scores."""
    groups: dict[str, Rows] = {}
    for name, row in suite.content["rows"].items():
        others = {key: value for key, value in row["settings"].items() if key not in kind.keys}
        if row["seeds"] and row["stage"] != "supervised":
            same = json.dumps([row["stage"], others], sort_keys=True)
            groups.setdefault(same, {})[name] = row["settings"]
    sweeps = [kind.sort(rows) for rows in groups.values()]
    return [s for s in sweeps if len({n for line in s.lines for n in line.rows.values()}) >= _LEAST]


def patch_sizes(rows: Rows) -> Sweep:
    """One side is the longest of all and x the other one; shorter squares are stars."""
    sizes = {name: tuple(s["patch_size"]) for name, s in rows.items() if "patch_size" in s}
    long = max((side for size in sizes.values() for side in size), default=0)
    upright = {width: name for name, (height, width) in sizes.items() if height == long}
    lying = {height: name for name, (height, width) in sizes.items() if width == long}
    squares = {h: name for name, (h, w) in sizes.items() if h == w < long}
    lines = [
        Line(f"upright, {long} x n", upright, BLUE),
        Line(f"lying, n x {long}", lying, ORANGE, "s"),
        Line("square, n x n", squares, YELLOW, "*"),
    ]
    return Sweep("n in pixels; height x width of the patch", lines)


def fixed_weights(rows: Rows) -> Sweep:
    weights = {name: s.get("region_weight", "adaptive") for name, s in rows.items()}
    fixed = {weight: name for name, weight in weights.items() if weight != "adaptive"}
    adaptive = [name for name, weight in weights.items() if weight == "adaptive"]
    level = ("adaptive w", adaptive[0]) if adaptive else None
    return Sweep("weight w of the inconsistent region", [Line("fixed w", fixed, BLUE)], level)


def resize_ratios(rows: Rows) -> Sweep:
    ratios = {name: s["local_resize"] for name, s in rows.items() if "local_resize" in s}
    fixed = {low: name for name, (low, high) in ratios.items() if low == high}
    drawn = [(f"drawn from U[{a:g}, {b:g}]", n) for n, (a, b) in ratios.items() if a < b]
    level = drawn[0] if drawn else None
    return Sweep("resize ratio of the local view", [Line("fixed ratio", fixed, BLUE)], level)


KINDS = (
    Kind(
        "fig6a_patch_size",
        "Fig. 6 (a): patch size of the local view",
        ("patch_size",),
        patch_sizes,
        {
            "patch sizes on Cityscapes": _CITY.format("patch_size"),
            "patch sizes on the demo's scenes": _DEMO.format("patch_size"),
        },
    ),
    Kind(
        "fig6b_weight",
        "Fig. 6 (b): fixed weight against the adaptive one",
        ("region_weight",),
        fixed_weights,
        {
            "weights on Cityscapes": _CITY.format("weight"),
            "weights on the demo's scenes": "bash scripts/demo_ablation.sh",
        },
    ),
    Kind(
        "resize_ratio",
        "Resize ratio of the local view",
        ("local_resize",),
        resize_ratios,
        {
            "ratios on Cityscapes": _CITY.format("resize_ratio"),
            "ratios on the demo's scenes": _DEMO.format("resize_ratio"),
        },
    ),
)
