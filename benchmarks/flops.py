"""FLOPs of a training step, and the machine's rate of matrix products."""

import math
import statistics
import time

import torch
import torch.nn.functional as F

from benchmarks.harness import wait

# Per image of 512x1024, by torch's counter: ResNet-50-V1c at stride 8, the ASPP with the text
# classifier, and the backward pass of both.
SEGMENTATION = {"v2": (404 + 619 + 2044) * 1e9, "v3": (404 + 502 + 1812) * 1e9}
SEGMENTATION_PIXELS = 512 * 1024
CLIP_WIDTH, CLIP_LAYERS, CLIP_PATCH, CLIP_OUTPUT = 768, 12, 16, 512


def clip_flops(size: tuple[int, int]) -> float:
    """FLOPs of CLIP ViT-B/16 on one image of `size`, with only the value path of the last block.

    A block costs 24 n d^2 + 4 n^2 d (n tokens of width d), the value path 20 n d^2.
    """
    tokens = 1 + math.prod(math.ceil(side / CLIP_PATCH) for side in size)
    blocks = CLIP_LAYERS - 1
    per_token = (24 * blocks + 20) * CLIP_WIDTH**2
    ends = 2 * CLIP_WIDTH * (3 * CLIP_PATCH**2 + CLIP_OUTPUT)
    return tokens * (per_token + ends) + 4 * blocks * tokens**2 * CLIP_WIDTH


def step_flops(
    size: tuple[int, int], local_sizes: list[tuple[int, int]], aspp: str = "v2"
) -> float:
    """FLOPs of a step on images of `size`, one for each of CLIP's input sizes of the local view."""
    segmentation = SEGMENTATION[aspp] * math.prod(size) / SEGMENTATION_PIXELS
    return sum(segmentation + clip_flops(size) + clip_flops(local) for local in local_sizes)


def convolution_rate() -> float:
    """FLOPs per CPU-second of a convolution like the ASPP's on the CPU: fp32, NCHW, dilated."""
    image, weight = torch.randn(1, 2048, 64, 128), torch.randn(512, 2048, 3, 3)
    seconds = []
    for _ in range(4):
        start = time.process_time()
        F.conv2d(image, weight, padding=6, dilation=6)
        seconds.append(time.process_time() - start)
    return 2 * weight.numel() * image[0, 0].numel() / statistics.median(seconds[1:])


def matrix_rate(
    device: str, dtype: torch.dtype = torch.bfloat16, side: int = 8192, repeats: int = 20
) -> float:
    """FLOP/s of a large square matrix product, the median of five runs of `repeats` products."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    a @ b
    seconds = []
    for _ in range(5):
        wait(device)
        start = time.perf_counter()
        for _ in range(repeats):
            a @ b
        wait(device)
        seconds.append((time.perf_counter() - start) / repeats)
    return 2 * side**3 / statistics.median(seconds)
