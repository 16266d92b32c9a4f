"""CLIP pseudo-mask of one image: the global view, and local views at resize ratios 1, 1.5 and 2.

--quick: on a CPU the smallest local view only.
"""

import torch

from benchmarks.harness import Case, Options, main_of
from benchmarks.inputs import (
    official_config,
    random_images,
    random_labels,
    random_text_embeddings,
    random_visual,
)
from benchmarks.official.clip import clip_mask
from datasets.transforms import normalize
from models.build import build_maskclip_options
from models.maskclip import MaskCLIP

GLOBAL, PATCH = (512, 1024), (512, 256)
# Size of CLIP's input, size of the mask, CPU-seconds of the official program.
SIZES = {
    "global 512x1024": (GLOBAL, GLOBAL, 9.6),
    "local m=1": ((512, 256), PATCH, 1.3),
    "local m=1.5": ((768, 384), PATCH, 4.2),
    "local m=2": ((1024, 512), PATCH, 9.7),
}
QUICK = ("local m=1",)
# Least ratio for the global view, least share of equal pixels. Random weights are a hard case for
# bfloat16: their scores are close together.
PRECISIONS = {"fp32": (1.6, 0.9999), "bf16": (2.2, 0.99)}


def cases(options: Options) -> list[Case]:
    visual = random_visual().to(options.device)
    text = random_text_embeddings().to(options.device)
    maskclip = MaskCLIP(visual, text, build_maskclip_options(official_config()))
    names = QUICK if options.quick and options.device == "cpu" else SIZES
    return [
        _case(maskclip, name, precision, options.device)
        for name in names
        for precision in PRECISIONS
    ]


def _case(maskclip: MaskCLIP, name: str, precision: str, device: str) -> Case:
    input_size, mask_size, expected = SIZES[name]
    target, least_share = PRECISIONS[precision]
    image, labels = _inputs(input_size, device, seed=0)

    def official(image: torch.Tensor = image, labels: torch.Tensor = labels) -> torch.Tensor:
        return clip_mask(maskclip.visual, maskclip.text_embeddings, image, labels, mask_size)[:, 0]

    def ours(image: torch.Tensor = image, labels: torch.Tensor = labels) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return maskclip(image, labels, mask_size)

    def check() -> str:
        fresh = _inputs(input_size, device, seed=1)
        expected_mask, mask = official(*fresh), ours(*fresh)
        share = (expected_mask == mask).double().mean().item()
        classes = len(expected_mask.unique())
        assert classes > 3, f"a mask of {classes} classes proves nothing"
        assert share >= least_share, f"masks equal on {share:.4%} of pixels, not {least_share:.2%}"
        return (
            f"masks equal on {share:.4%} of pixels (at least {least_share:.2%}), {classes} classes"
        )

    return Case(
        f"CLIP mask, {name}, {precision}",
        check,
        official,
        ours,
        target if input_size == GLOBAL else None,
        expected if device == "cpu" else None,
        rounds=3,
    )


def _inputs(size: tuple[int, int], device: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = normalize(random_images(1, size, generator), "imagenet")
    return image.to(device), random_labels(1, generator).to(device)


if __name__ == "__main__":
    main_of(cases)
