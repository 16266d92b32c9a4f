"""The scripts on tar shards: the numbers of files, also after a kill."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import own_data
import pytest
import torch
from test_shards import pack

import eval as evaluation
import gen_clip_masks
import predict
import prepare_data
import train_carb
import train_warmup
from datasets.mask_shards import list_masks
from utils.checkpoint import load_checkpoint

SHARDS = ("--set", "data_root=shards")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """own_data's world, whose images and masks also lie in shards/; in many/, copies of them."""
    folder = tmp_path_factory.mktemp("world")
    own_data.make_world(folder)
    for split in ("train", "val"):
        files: list[dict[str, bytes]] = [{}, {}]
        for i, path in enumerate(sorted((folder / "data/images" / split).iterdir())):
            mask = (folder / "data/masks" / split / path.name).read_bytes()
            files[i % 2] |= {path.name: path.read_bytes(), f"{path.stem}.mask.png": mask}
        for i, content in enumerate(files):
            pack(folder / f"shards/{split}-{i:06d}.tar", content)
    picture = (folder / "data/images/train/t0.png").read_bytes()
    labels = {f"{i:02d}": [i % 4, (i + 1) % 4] for i in range(40)}
    for i in range(4):
        pack(folder / f"many/{i}.tar", {f"{k:02d}.png": picture for k in range(i, 40, 4)})
    (folder / "many.json").write_text(json.dumps(labels))
    return folder


def metrics(run: str) -> list[dict]:
    lines = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


@pytest.mark.slow
def test_every_stage_has_the_numbers_of_files(world: Path) -> None:
    with contextlib.chdir(world):
        argv = ["folder", "--root", "shards", "--class-file", "data/classes.yaml", "--workers", "0"]
        prepare_data.main([*argv, "--out", "labels_of_shards.json"])
        assert Path("labels_of_shards.json").read_text() == Path("labels.json").read_text()
        prepare_data.main([*argv, "--labels", "labels.json", "--check"])
        own = [*own_data.CONFIG, *SHARDS]
        gen_clip_masks.main([*own, "--out", "masks2", "--shards", "--score"])
        found, files = list_masks(Path("masks2")), list_masks(Path("masks"))
        assert {n: f.read() for n, f in found.items()} == {n: f.read() for n, f in files.items()}
        # As every checkpoint is kept, the run ends after two steps and goes on from there.
        own += ["pseudo_masks=masks2"]
        train_warmup.main([*own, "--run-dir", "warmup2"])
        carb = ["--init", "warmup2/warmup.pt", "--run-dir", "carb2", "--keep-checkpoints"]
        train_carb.main([*own, *carb])
        for one, other in (("warmup", "warmup2"), ("carb", "carb2")):
            assert metrics(one) == metrics(other)
            a, b = (load_checkpoint(f"{run}/last.pt") for run in (one, other))
            assert all(torch.equal(v, b["model"][k]) for k, v in a["model"].items())
            assert a["inputs"]["images"] == b["inputs"]["images"]
        # Back to files, in the middle of the run: the data are the same.
        shutil.copytree("warmup2", "warmup3")
        train_warmup.main([*own_data.CONFIG, "--run-dir", "warmup3"])
        for run in ("carb", "carb2"):
            argv = ["--ckpt", f"{run}/last.pt", "--split", "val", "--device", "cpu"]
            evaluation.main([*argv, "--out", f"{run}_val"])
        scores = [
            json.loads(Path(f"{run}_val/metrics.json").read_text()) for run in ("carb", "carb2")
        ]
        assert scores[0]["confusion"] == scores[1]["confusion"]
        for source in ("data/images", "shards"):
            out = f"predicted_{source.partition('/')[0]}"
            predict.main(["--ckpt", "carb/last.pt", "--out", out, source, "--device", "cpu"])
        names = [path.name for path in sorted(Path("predicted_data").rglob("[tv]?.png"))]
        assert len(names) == 6
        for path in Path("predicted_data").rglob("[tv]?.png"):
            assert path.read_bytes() == Path("predicted_shards", path.name).read_bytes()


@pytest.mark.slow
def test_two_ranks_killed_and_one_that_goes_on_make_each_mask_once(world: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    settings = ["--set", "data_root=many", "image_labels=many.json"]
    command = [*own_data.CONFIG, *settings, "--shards", "--out", "killed"]
    script = [str(root / "gen_clip_masks.py"), *command]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    with subprocess.Popen(
        [*two, *script], cwd=world, env=environment, start_new_session=True
    ) as run:
        while run.poll() is None:
            parts = [path.stat().st_size for path in (world / "killed").glob("*.part")]
            if len(parts) == 2 and min(parts) > 0:
                children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text()
                for process in [*map(int, children.split()), run.pid]:
                    os.kill(process, signal.SIGKILL)
                break
            time.sleep(0.01)
        run.wait()
    assert [*(world / "killed").glob("*.part")]
    with contextlib.chdir(world):
        gen_clip_masks.main(command)
        gen_clip_masks.main([*own_data.CONFIG, *settings, "--out", "whole"])
        found, whole = list_masks(Path("killed")), list_masks(Path("whole"))
    with contextlib.chdir(world):  # a mask that was twice in the shards would be an error
        assert len(whole) == 40
        assert {n: f.read() for n, f in found.items()} == {n: f.read() for n, f in whole.items()}
