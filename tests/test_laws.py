"""The laws of the house: who may import whom, who sees the config, how long a script may be."""

import ast
import re
from pathlib import Path

import pytest

FLOORS = ("utils", "datasets", "models")  # each may import itself and those before it
OUTBUILDINGS = ("baselines", "experiments", "demo", "benchmarks")
SCRIPTS = sorted(Path().glob("*.py"))
CORE = [*SCRIPTS, *(path for floor in FLOORS for path in sorted(Path(floor).rglob("*.py")))]
SOURCES = CORE + [
    path for name in (*OUTBUILDINGS, "scripts") for path in sorted(Path(name).rglob("*.py"))
]


def imported(path: Path) -> set[str]:
    """Modules that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or ".")
    return names


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("floor", FLOORS)
def test_no_import_runs_up_to_a_higher_floor(floor: str) -> None:
    higher = {*FLOORS[FLOORS.index(floor) + 1 :], *(path.stem for path in SCRIPTS)}
    wrong = {str(path): packages(path) & higher for path in Path(floor).rglob("*.py")}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_core_imports_no_outbuilding() -> None:
    front_doors = {Path("report.py")}  # of experiments/
    wrong = {str(path): packages(path) & {*OUTBUILDINGS} for path in {*CORE} - front_doors}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_a_baseline_imports_core_what_all_share_and_the_method_it_is_defined_on() -> None:
    cam_methods = {"psa", "seam", "amn", "clims"}
    for path in Path("baselines").glob("*.py"):
        own = {name for name in imported(path) if name.split(".")[0] in OUTBUILDINGS}
        allowed = {"baselines.common", "baselines.stages"}
        assert own <= allowed | ({"baselines.cam"} if path.stem in cam_methods else set()), path


def test_only_builders_see_the_config() -> None:
    """Classes and equations of `models` and `datasets` take plain arguments.

    The doctor judges settings and the upkeep of a run (`utils`) stores them, so both see them.
    """
    allowed = re.compile(r"_?(build|load)_\w+|training_set|prepare_views")
    wrong = []
    for path in (*Path("models").rglob("*.py"), *Path("datasets").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or allowed.fullmatch(node.name):
                continue
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            kinds = [ast.unparse(a.annotation) for a in arguments if a.annotation is not None]
            if any(re.search(r"\bConfig\b", kind) for kind in kinds):
                wrong.append(f"{path}: {node.name}")
    assert wrong == []


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_a_script_is_read_in_one_go(path: Path) -> None:
    limits = {"train_warmup.py": 90, "train_carb.py": 90, "gen_clip_masks.py": 130}
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limits.get(path.name, 200)


@pytest.mark.parametrize("path", sorted(Path("baselines").glob("[!_]*.py")), ids=str)
def test_a_method_is_read_in_one_go(path: Path) -> None:
    limits = {"common": 180, "stages": 180, "points": 240}
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limits.get(path.stem, 220)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_devices_come_from_one_place_and_nothing_unsafe_is_called(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path != Path("utils/distributed.py") and path.parts[0] != "benchmarks":  # they pick a device
        assert not re.search(r"""\.cuda\(\)|["']cuda["':]""", text)
    assert "yaml.load(" not in text and "import *" not in text
    assert not re.search(r"allow_pickle\s*=\s*True|weights_only\s*=\s*False", text)
    assert not re.search(r"except\s*:", text)


def test_readme_names_the_functions_of_the_equations() -> None:
    section = Path("README.md").read_text(encoding="utf-8").partition("## Equations")[2]
    rows = re.findall(r"^\| .* \| (.*) \| `(models/.*)` \|$", section.partition("\n## ")[0], re.M)
    assert len(rows) > 8
    for functions, file in rows:
        source = Path(file).read_text(encoding="utf-8")
        for name in re.findall(r"`\.?(?:\w+\.)?(\w+)`", functions):
            assert re.search(rf"^ *(def|class) {name}\b", source, re.M), f"{name} in {file}"
