"""What must not move when the code is rewritten: the numbers of short runs, compared bit for bit.

    python tests/reference.py record TREE OUT.json          # TREE: a checkout of this repository
    python tests/reference.py compare BEFORE.json AFTER.json

Recorded are masks, losses, weights, momentum and queues, predictions and scores on the tiny data of
tests/tiny.py: views base, local and dual, CARB on and off, 1 and 2 processes, a run that was killed
and resumed, full supervision, three kinds of evaluation, and a short demo (`bash run_demo.sh`, for
which TREE needs its .venv). It takes five minutes on two CPU cores; torch and machine must be the
same for both files. The exit status of compare is 1 when anything differs.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

LIMITS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}
PREPARE = """
import json, sys
from pathlib import Path
sys.path[:0] = ["tests", "."]
import tiny
folder = Path(sys.argv[1])
tiny.make_cityscapes(folder / "data")
tiny.make_clip(folder / "clip.pt")
tiny.make_config(folder, dropout=0.1, steps=10, warmup_steps=6, checkpoint_every=3, log_every=2)
names = [f"trainburg/trainburg_{i:06d}_000019" for i in range(8)]
labels = {name: [i, i + 4, i + 8] for i, name in enumerate(names)}
(folder / "image_labels.json").write_text(json.dumps(labels))
"""
RENAMED = {"balance": "w"}  # names in metrics.jsonl that were changed on the way
UNSTABLE = {"images_per_second", "max_memory_mib"}


def main(argv: list[str]) -> int:
    if len(argv) == 3 and argv[0] == "record":
        with tempfile.TemporaryDirectory() as folder:
            result = record(Path(argv[1]).resolve(), Path(folder))
        Path(argv[2]).write_text(json.dumps(result, indent=1), encoding="utf-8")
        print(f"{argv[2]}: {len(result)} results of {argv[1]}")
        return 0
    if len(argv) == 3 and argv[0] == "compare":
        before, after = map(read, argv[1:])
        return compare(before, after)
    print(__doc__)
    return 2


def record(tree: Path, folder: Path) -> dict[str, Any]:
    """Everything that the scripts of `tree` compute from the tiny data."""
    result: dict[str, Any] = {}
    subprocess.run(
        [sys.executable, "-c", PREPARE, folder], cwd=tree, env=os.environ | LIMITS, check=True
    )
    common = ["--config", folder / "config.yaml", "--device", "cpu"]

    run(tree, "gen_clip_masks.py", *common, "--out", folder / "clip_masks")
    result["masks"] = images(folder / "clip_masks")
    views = ["--ratio", "2", "1", "--grid", "2x2", "--flip"]
    run(tree, "gen_clip_masks.py", *common, "--out", folder / "many_views", *views)
    result["masks of many views"] = images(folder / "many_views")

    for kind in ("base", "local", "dual"):
        for carb in ("false", "true"):
            for ranks in (1, 2):
                name = f"{kind}, carb {carb}, {ranks} process(es)"
                chosen = [*common, "--set", f"views={kind}", f"carb={carb}"]
                result |= two_stages(tree, folder / f"{kind}_{carb}_{ranks}", name, chosen, ranks)
    name = "dual, carb true, killed"
    result |= two_stages(tree, folder / "killed", name, [*common, "--set", "views=dual"], kill=True)

    script = "train_supervised.py"
    if not (tree / script).exists():
        script = "baselines.supervised"
    run(tree, script, *common, "--run-dir", folder / "supervised")
    result["supervised"] = trained(folder / "supervised")

    checkpoint = folder / "dual_true_1" / "carb" / "last.pt"
    for name, options in {
        "eval": [],
        "eval, scales and flip": ["--scales", "0.75", "1.25", "--flip"],
        "eval, windows": ["--window", "32", "32", "--stride", "16", "16"],
    }.items():
        out = folder / name.replace(" ", "_")
        options = [*options, "--save-predictions", "--save-vis", "--out", out]
        run(tree, "eval.py", "--ckpt", checkpoint, "--device", "cpu", *options)
        result[name] = {"scores": scores(out / "metrics.json"), "images": images(out)}

    environment = os.environ | LIMITS | {"STEPS": "12", "WARMUP": "8", "SCENES": "train=4 val=2"}
    demo = ["bash", "run_demo.sh", "--data", folder / "scenes", "--out", folder / "demo"]
    done = subprocess.run(demo, cwd=tree, env=environment, capture_output=True, text=True)
    check(demo, done)
    result["demo, scenes"] = images(folder / "scenes" / "images")
    result["demo, masks"] = images(folder / "demo" / "masks_val")
    for stage in ("warmup", "carb"):
        result[f"demo, {stage}"] = trained(folder / "demo" / stage)
        result[f"demo, {stage}, eval"] = scores(folder / "demo" / stage / "eval_val/metrics.json")
    return result


def two_stages(
    tree: Path, folder: Path, name: str, chosen: list, ranks: int = 1, kill: bool = False
) -> dict[str, Any]:
    """Warm-up and, where the settings ask for it, CARB."""
    warmup, carb = folder / "warmup", folder / "carb"
    run(tree, "train_warmup.py", *chosen, "--run-dir", warmup, ranks=ranks, kill=kill and warmup)
    result = {f"{name}: warm-up": trained(warmup)}
    if "carb=false" not in chosen:
        from_warmup = ["--init", warmup / "warmup.pt", "--run-dir", carb]
        run(tree, "train_carb.py", *chosen, *from_warmup, ranks=ranks, kill=kill and carb)
        result[f"{name}: CARB"] = trained(carb)
    return result


def run(
    tree: Path, script: str, *arguments: Any, ranks: int = 1, kill: Path | bool = False
) -> None:
    """Run a script of `tree`; with `kill`, a run folder, kill it once and start it again."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    program = [tree / script] if script.endswith(".py") else ["-m", script]
    command = [str(part) for part in (*launcher, *program, *arguments)]
    options: dict[str, Any] = {"cwd": tree, "env": os.environ | LIMITS}
    if kill:
        with subprocess.Popen(command, **options, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and not (Path(kill) / "last.pt").exists():
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
    check(command, subprocess.run(command, **options, capture_output=True, text=True))


def check(command: list, done: subprocess.CompletedProcess) -> None:
    if done.returncode:
        raise SystemExit(f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def trained(run_dir: Path) -> dict[str, Any]:
    """Weights, momentum, queues and log of a run."""
    checkpoint = torch.load(run_dir / "last.pt", weights_only=True)
    weights = hashlib.sha256()
    for key, value in sorted(checkpoint["model"].items()):
        weights.update(key.encode() + value.contiguous().numpy().tobytes())
    momentum = hashlib.sha256()
    for _, kept in sorted(checkpoint["optimizer"]["state"].items()):
        momentum.update(kept["momentum_buffer"].contiguous().numpy().tobytes())
    lines = []
    for text in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        line = {RENAMED.get(key, key): value for key, value in json.loads(text).items()}
        lines.append({key: value for key, value in line.items() if key not in UNSTABLE})
    return {
        "weights": weights.hexdigest(),
        "momentum": momentum.hexdigest(),
        "queues": checkpoint["criterion"],
        "log": lines,
    }


def read(file: str) -> dict[str, Any]:
    """A record; of the queues the losses, without the places that hold none."""
    results = json.loads(Path(file).read_text(encoding="utf-8"))
    for result in results.values():
        if "queues" in result:
            result["queues"] = [
                [[loss for loss in queue if loss is not None] for queue in queues.values()]
                for queues in result["queues"]
                if any(queues.values())
            ]
    return results


def images(folder: Path) -> dict[str, str]:
    """Path below `folder` -> hash of each image."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".png", ".jpg")
    }


def scores(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key in ("miou", "classes", "confusion")}


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print what differs; the number 1 when anything does."""
    different = [name for name in before if before[name] != after.get(name)]
    for name in different:
        print(f"differs: {name}")
        old, new = before[name], after.get(name) or {}
        for key in old:
            if old[key] != new.get(key):
                print(f"  {key}: {str(old[key])[:300]}\n    -> {str(new.get(key))[:300]}")
    print(f"{len(before) - len(different)} of {len(before)} results are the same, bit for bit")
    return 1 if different else 0


if __name__ == "__main__":
    if not shutil.which("bash"):
        raise SystemExit("this script needs bash, which runs the demo")
    sys.exit(main(sys.argv[1:]))
