"""The demo's suites of teachers fit a miniature ViT: 8 blocks, 8x8 patches, 64x64 pixels."""

from itertools import combinations

import pytest
import torch
from clip.model import CLIP
from torch import Tensor, nn

from experiments.suite_file import read_suite
from models.build import build_maskclip_options
from models.clip_features import MaskCLIPOptions
from models.maskclip import MaskCLIP
from utils.config import read_settings

SUITES = [read_suite(f"demo/suites/{name}.yaml", []) for name in ("demo_readouts", "demo_teachers")]
ROWS = [(row, suite.config_of(row, 0)) for suite in SUITES for row in suite.rows.values()]
CONFIG = ROWS[0][1]
# Options -> the row that has them first. In the step CLIP sees patches of this size or larger.
STORED, IN_STEP = {}, {}
for row, config in ROWS:
    STORED.setdefault(build_maskclip_options(config, stored=True), row.name)
    if row.stage != "masks" and config.views != "base":
        IN_STEP.setdefault(build_maskclip_options(config), row.name)


@pytest.fixture(scope="module")
def visual() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # embedding, side, blocks, width, patch; of the text tower: context, vocabulary, width, ...
        return CLIP(16, 64, 8, 64, 8, 77, 100, 64, 1, 1).visual


def scores_of(visual: nn.Module, options: MaskCLIPOptions, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    teacher = MaskCLIP(visual, torch.randn(3, 16, generator=generator), options)
    image = torch.randn(1, 3, *size, generator=generator)
    return teacher.refine(teacher.upsampled_scores(image, size), image)


@pytest.mark.parametrize(
    "teachers, size",
    [(STORED, CONFIG.image_size), (IN_STEP, CONFIG.patch_size)],
    ids=["stored masks", "in the step"],
)
def test_every_teacher_has_scores_of_its_own(teachers, size, visual) -> None:
    scores = {name: scores_of(visual, options, size) for options, name in teachers.items()}
    for name, found in scores.items():
        assert found.shape == (1, 3, *size), name
        assert found.isfinite().all() and found.abs().max() <= 1, name
    for one, other in combinations(scores, 2):
        assert not torch.allclose(scores[one], scores[other], atol=1e-3), (one, other)


def test_the_vits_config_is_the_demos_but_for_clip_and_teacher() -> None:
    demo, vit = (read_settings(f"demo/{name}.yaml") for name in ("config", "vit"))
    differing = {key for key in demo | vit if demo.get(key) != vit.get(key)}
    of_clip = {"clip_model", "clip_text", "pseudo_masks", "teacher"}
    assert differing == of_clip | {"views", "precision"}
