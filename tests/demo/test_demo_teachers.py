"""The demo's suites of teachers fit a miniature ViT: 8 blocks, 8x8 patches, 64x64 pixels."""

import pytest
import torch
from clip.model import CLIP

from experiments.suite_file import read_suite
from models.build import build_maskclip_options
from models.maskclip import MaskCLIP
from utils.config import read_settings

ROWS = {
    (name, row.name): suite.config_of(row, 0)
    for name in ("demo_readouts", "demo_teachers")
    for suite in [read_suite(f"demo/suites/{name}.yaml", [])]
    for row in suite.rows.values()
}


@pytest.fixture(scope="module")
def visual() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # embedding, side, blocks, width, patch; of the text tower: context, vocabulary, width, ...
        return CLIP(16, 64, 8, 64, 8, 77, 100, 64, 1, 1).visual


@pytest.mark.parametrize("row", ROWS, ids=": ".join)
def test_every_teacher_labels_a_scene_with_the_classes_that_it_has(row, visual) -> None:
    config, generator = ROWS[row], torch.Generator().manual_seed(0)
    text = torch.randn(3, 16, generator=generator)
    teacher = MaskCLIP(visual, text, build_maskclip_options(config, stored=True))
    image = torch.randn(1, 3, *config.image_size, generator=generator)
    mask = teacher(image, torch.tensor([[1, 0, 1]]), config.image_size)
    assert mask.shape == (1, *config.image_size)
    assert {*mask.unique().tolist()} <= {0, 2}


def test_the_vits_config_is_the_demos_but_for_clip_and_teacher() -> None:
    demo, vit = (read_settings(f"demo/{name}.yaml") for name in ("config", "vit"))
    differing = {key for key in demo | vit if demo.get(key) != vit.get(key)}
    assert differing == {"clip_model", "clip_text", "pseudo_masks", "teacher", "precision"}
