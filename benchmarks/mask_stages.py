"""gen_clip_masks.py for benchmarks/prediction.py: its stages alone, and the script as a whole.

CLIP is a ViT-B/16 of the real size with random weights, which take the time of trained ones, on
images fitted into half their size.
"""

import tempfile
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import torch

import gen_clip_masks
from benchmarks.inputs import random_labels, random_text_embeddings, random_visual
from benchmarks.output import ROOT
from benchmarks.wall import Clock, by_round, in_turn, write_jpegs
from datasets import mask_writer
from datasets.files import File
from datasets.labels import load_classes
from datasets.training import EvaluationSet
from datasets.transforms import normalize
from models.build import build_maskclip_options
from models.maskclip import MaskCLIP
from utils.config import load_config
from utils.safe.files import write_json
from utils.visualize import save_mask

CONFIG = ROOT / "configs/cityscapes.yaml"
STAGES = ("decode", "network", "resize and pseudo-mask", "encode")


def measure_masks(
    size: tuple[int, int], count: int, rounds: int, device: str, quick: bool
) -> dict[str, list[float]]:
    """Wall seconds per image of STAGES, and of gen_clip_masks.py in turn and overlapped, by round.

    size: (height, width) of the JPEGs; quick: a narrow CLIP.
    """
    text = random_text_embeddings()
    with tempfile.TemporaryDirectory(prefix="carb-benchmark-") as name:
        folder = Path(name)
        write_jpegs(folder / "data/images/train", size, count)
        labels = random_labels(count, torch.Generator().manual_seed(0))
        overrides = [
            "dataset=folder",
            f"data_root={folder / 'data'}",
            f"pseudo_masks={folder / 'out'}",
        ]
        overrides += [f"image_labels={folder / 'labels.json'}"]
        overrides += [f"image_size={[side // 2 for side in size]}", "num_workers=0"]
        config = load_config(CONFIG, overrides)
        classes = load_classes(config.class_file)
        names = [[classes.names[k] for k in row.nonzero().flatten()] for row in labels]
        write_json(folder / "labels.json", {str(i): row for i, row in enumerate(names)})
        visual = random_visual(width=64) if quick else random_visual()
        teacher = MaskCLIP(visual, text, build_maskclip_options(config, stored=True)).to(device)
        files = {str(i): File(str(folder / f"data/images/train/{i}.jpg")) for i in range(count)}
        data = EvaluationSet(files, config.image_size)

        def stages(number: int) -> dict[str, float]:
            clock = Clock(STAGES, number, device)
            for index in range(number):
                sample = clock("decode", data.__getitem__, index)
                image = sample["image"][None].to(device)
                image = normalize(image, config.arithmetic.clip_normalization)
                present = labels[index : index + 1].to(device)
                scores = clock("network", teacher.scores, image)
                with patch.object(teacher, "scores", lambda _, known=scores: known):
                    masks = clock("resize and pseudo-mask", teacher, image, present, sample["size"])
                mask = masks[0].byte().cpu().numpy()
                clock("encode", save_mask, folder / "one.png", mask, classes.palette)
            return clock.seconds

        def run() -> None:
            command = ["--config", str(CONFIG), "--device", device, "--overwrite"]
            with ExitStack() as stack:
                for what, value in (("teacher", teacher), ("text_embeddings", text)):
                    name = f"build_{what}"
                    stack.enter_context(
                        patch.object(gen_clip_masks, name, lambda *_, v=value, **__: v)
                    )
                stack.enter_context(redirect_stdout(StringIO()))
                gen_clip_masks.main([*command, "--set", *overrides])

        return by_round(
            stages, run, lambda: in_turn(gen_clip_masks, mask_writer), count, rounds, device
        )
