"""Feed damaged and odd files to everything that reads files which come from elsewhere.

    python -m tests.fuzz --minutes 10
    python -m tests.fuzz --minutes 2 --only labels yaml-config
    python -m tests.fuzz --again runs/fuzz/labels-json.1a2b3c4d.json

A file may be read or be refused with an InputError; anything else is a fault, as are more than
20 seconds for a file, or a GiB of memory. Each kind of fault is found once, made as small as
hypothesis can, and its file left in OUT for --again. Exit status 1 where there are faults. The file
being read lies in OUT/reading: where the whole program dies, it is still there. --seed repeats a
run. Needs hypothesis (requirements-dev.txt).
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import contextlib
import io
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from tests.fuzz import checkpoints, images, labels, logs, points, tags
from tests.fuzz import settings as setting_files
from tests.fuzz.inputs import damaged, edited, repacked, soup
from tests.fuzz.reading import ROOT, Fault, Target, read
from utils.cli import path
from utils.safe.errors import InputError, run_script
from utils.safe.files import sha256

ROUND = 60  # files of a target before it is the turn of the next
PARTS = {
    "labels": labels.label_targets,
    "points": points.point_targets,
    "tags": tags.tag_targets,
    "yaml": setting_files.yaml_targets,
    "log": logs.log_targets,
    "checkpoint": checkpoints.checkpoint_targets,
    "image": images.image_targets,
}
if (ROOT / "experiments").is_dir():
    from tests.fuzz.experiments import experiment_targets

    PARTS["experiments"] = experiment_targets


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    out = Path(arguments.out)
    if arguments.again:
        again(Path(arguments.again))
        return
    targets = {
        name: target
        for part, make in PARTS.items()
        for name, target in (make() if _wanted(part, arguments.only) else {}).items()
        if _wanted(name, arguments.only)
    }
    if not targets:
        raise InputError(
            f"--only: expected starts of {', '.join(PARTS)}-..., found {arguments.only}"
        )
    out.mkdir(parents=True, exist_ok=True)
    known: dict[str, Path] = {}
    counts = {name: Counter() for name in targets}
    end, number = time.monotonic() + 60 * arguments.minutes, arguments.seed
    while time.monotonic() < end:
        for name, target in targets.items():
            if time.monotonic() < end:
                found = fuzz(name, target, number, ROUND, set(known), out, counts[name])
                if found:
                    known[found[0]] = found[1]
                    print(f"{name}: {found[0]}\n    python -m tests.fuzz --again {found[1]}")
        number += 1
    shutil.rmtree(out / "reading", ignore_errors=True)
    for name, count in counts.items():
        print(f"{name:20} {count['read']:7} read {count['refused']:7} refused")
    total = sum(sum(count.values()) for count in counts.values())
    print(f"{total} files, seeds {arguments.seed} to {number - 1}, {len(known)} kinds of faults")
    if known:
        sys.exit(1)


def parse(argv: list[str]) -> argparse.Namespace:
    result = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--minutes", type=float, default=10.0)
    add("--only", nargs="+", metavar="NAME", default=[""], help=f"starts of {', '.join(PARTS)}-..")
    add("--seed", type=int, default=0)
    add(
        "--out",
        type=path,
        default="runs/fuzz",
        help="folder of the files that show a fault (default: runs/fuzz)",
    )
    add("--again", type=path, metavar="FILE", help="read one of these files again")
    return result.parse_args(argv)


def _wanted(name: str, only: list[str]) -> bool:
    return any(name.startswith(start) or start.startswith(f"{name}-") for start in only)


def fuzz(
    name: str,
    target: Target,
    number: int,
    count: int,
    known: set[str],
    out: Path,
    counts: Counter,
) -> tuple[str, Path] | None:
    """Read `count` files drawn by the seed `number`; the first unknown kind of fault and its file.

    `counts` takes how many were read and refused.
    """
    worst: list[tuple[str, bytes]] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(contents(target))
    def check(content: bytes) -> None:
        try:
            counts[read(name, target, content, out / "reading")] += 1
        except Fault as fault:
            if str(fault) not in known:
                worst[:] = [(str(fault), content)]
                raise

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            check()
    except (Fault, Flaky):  # flaky: memory that is taken once is there the next time
        kind, content = worst[0]
        digest = sha256(kind)[:8]
        path = out / f"{name}.{digest}{target.suffix}"
        path.write_bytes(content)
        return kind, path
    return None


def contents(target: Target) -> st.SearchStrategy[bytes]:
    """Files for a target: damaged, of pieces of its format, edited."""
    kinds = [damaged(target.files, target.tokens)]
    kinds += [soup(target.tokens)] if target.tokens else []
    zips = [file for file in target.files if target.suffix == ".pt" and file[:2] == b"PK"]
    kinds += [repacked(zips, target.tokens)] if zips else []
    if target.dump:
        tensors = target.suffix == ".pt"
        kinds += 2 * [edited(target.values, tensors).map(lambda value: _dumped(target, value))]
    return st.one_of(kinds)


def _dumped(target: Target, value: object) -> bytes:
    try:
        return target.dump(value)
    except Exception:  # no file of this format can hold it
        return target.files[0]


def again(path: Path) -> None:
    """Read a file as the target that its name starts with, and say what happens."""
    name = path.name.split(".")[0]
    target = {n: t for p, make in PARTS.items() if name.startswith(p) for n, t in make().items()}
    if name not in target:
        raise InputError(f"{path}: expected the name of a target in front, labels-json say")
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(read(name, target[name], path.read_bytes(), Path(folder) / "reading"))
        except Fault as fault:
            traceback.print_exception(fault.__cause__ or fault)
            sys.exit(1)


if __name__ == "__main__":
    run_script(main)
