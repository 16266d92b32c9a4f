"""Calculate training on 1, 8 and 64 GPUs; prints the tables of docs/scaling.md.

    python -m benchmarks.scaling_plan

FLOPs, parameters and bytes are counts; the rates below are assumptions.
"""

import math

from benchmarks.flops import SEGMENTATION, clip_flops
from experiments.figures.style import markdown

# --- assumptions
MATRIX_RATE = 790e12  # FLOP/s: large bf16 matrix products on an H200, given, not measured here
GPU_RATE = 0.4 * MATRIX_RATE  # the target share of benchmarks/train_step.py
FP32_RATE = 0.4 * 67e12  # FLOP/s: 40 % of its fp32 without tensor cores, from the data sheet
NVLINK = 450e9  # bytes/s and GPU, one direction, from the data sheet
NETWORK = 400e9 / 8  # bytes/s and machine, one direction, from the data sheet
GPUS_PER_MACHINE = 8
SYNC_LATENCY = {1: 0.0, 8: 30e-6, 64: 60e-6}  # seconds for one small collective among so many GPUs
MASK_BYTES = 0.1e6  # PNG 2048x1024; generated masks gave 0.02 to 0.24 MB (see the page)
DECODE_MS = 30  # CPU-ms to read an image and to make a training sample of it
OFFICIAL_DECODE_MS = 59  # CPU-ms for one augmented training image, the official pipeline

# --- counts
GRADIENT_BYTES = 4 * 61_280_096  # ResNet-50-V1c with ASPP-V2, fp32 (benchmarks/scale.py)
OFFICIAL_GRADIENT_BYTES = 4 * 147.47e6
SYNC_COLLECTIVES = 2 * 59  # batch norms, forward and backward
BACKWARD = 2044e9  # FLOP an image of 512x1024
PAPER_STEPS, PAPER_BATCH, PAPER_LR = 30_000, 8, 0.005
DECODED_BYTES = 1024 * 2048 * 3
DATA = {"Cityscapes": 2975, "coarse Cityscapes": 23_473, "1 M frames": 1_000_000}


def local_clip_flops(draws: int = 64) -> float:
    """Mean FLOP of CLIP on the local view of 512x256, enlarged by m ~ U[1, 2)."""
    ratios = [1 + (i + 0.5) / draws for i in range(draws)]
    return sum(clip_flops((int(512 * m), int(256 * m))) for m in ratios) / draws


def image_flops() -> float:
    """FLOP of a dual CARB step for one image of 512x1024: network, CLIP on both views."""
    return SEGMENTATION["v2"] + clip_flops((512, 1024)) + local_clip_flops()


def ring_bytes(gpus: int, size: float) -> float:
    """Bytes that each GPU sends in a ring all-reduce of `size` bytes."""
    return 2 * (gpus - 1) / gpus * size


def all_reduce_seconds(gpus: int, size: float) -> float:
    """Seconds of an all-reduce: one ring, at the rate of its slowest link."""
    return ring_bytes(gpus, size) / (NVLINK if gpus <= GPUS_PER_MACHINE else NETWORK)


def exposed_seconds(gpus: int, batch_per_gpu: float, size: float) -> float:
    """Seconds of the all-reduce that the backward pass does not hide."""
    return max(0.0, all_reduce_seconds(gpus, size) - batch_per_gpu * BACKWARD / GPU_RATE)


def sync_seconds(gpus: int) -> float:
    """Seconds of SyncBN: small collectives whose latency the network waits for."""
    return SYNC_COLLECTIVES * SYNC_LATENCY[gpus]


def step_seconds(gpus: int, batch_per_gpu: float, size: float = GRADIENT_BYTES) -> float:
    """Seconds of a training step, if data loading keeps up."""
    compute = batch_per_gpu * image_flops() / GPU_RATE
    return compute + exposed_seconds(gpus, batch_per_gpu, size) + sync_seconds(gpus)


def efficiency(gpus: int, batch_per_gpu: float, size: float = GRADIENT_BYTES) -> float:
    """Share of the step's time spent on computation."""
    return step_seconds(1, batch_per_gpu) / step_seconds(gpus, batch_per_gpu, size)


def hiding_batch(gpus: int, size: float) -> int:
    """Least images per GPU for which the backward pass hides the all-reduce."""
    return max(1, math.ceil(all_reduce_seconds(gpus, size) * GPU_RATE / BACKWARD))


def schedule_steps(global_batch: int) -> int:
    """Steps that see as many images as the paper's schedule."""
    return math.ceil(PAPER_STEPS * PAPER_BATCH / global_batch)


def loader_cores(images_per_second: float) -> float:
    """CPU cores that deliver this many images per second."""
    return images_per_second * DECODE_MS / 1000


def mask_hours(images: int, gpus: int, size: tuple[int, int], rate: float) -> float:
    """Hours of gen_clip_masks.py, if reading and writing keep up."""
    return images * clip_flops(size) / rate / gpus / 3600


def training_table() -> str:
    head = ["GPUs x images each", "compute", "all-reduce (hidden up to)", "SyncBN", "step"]
    head += ["efficiency (official 590 MB)", "same 240 000 images", "lr, linear"]
    rows = []
    for gpus, batch in ((1, 8), (8, 1), (8, 8), (64, 1), (64, 8)):
        steps, seconds = schedule_steps(gpus * batch), step_seconds(gpus, batch)
        reduced, hidden = all_reduce_seconds(gpus, GRADIENT_BYTES), batch * BACKWARD / GPU_RATE
        shares = [efficiency(gpus, batch, b) for b in (GRADIENT_BYTES, OFFICIAL_GRADIENT_BYTES)]
        rows.append(
            [
                f"{gpus} x {batch}",
                _ms(batch * image_flops() / GPU_RATE),
                f"{_ms(reduced)} ({_ms(hidden)})",
                _ms(sync_seconds(gpus)),
                _ms(seconds),
                "{:.0%} ({:.0%})".format(*shares),
                f"{steps} steps, {_time(steps * seconds)}",
                f"{PAPER_LR * gpus * batch / PAPER_BATCH:g}",
            ]
        )
    return markdown(head, rows)


def data_table() -> str:
    head = ["images", "masks", "decoded", "making masks at 1024x2048 on 1 / 8 / 64 GPUs"]
    head += ["in fp32", "at 512x1024"]
    large, small = (1024, 2048), (512, 1024)
    ways = ((large, GPU_RATE), (large, FP32_RATE), (small, GPU_RATE))
    rows = []
    for name, count in DATA.items():
        stored = [_gb(count * size) for size in (MASK_BYTES, DECODED_BYTES)]
        hours = [[mask_hours(count, gpus, *way) for gpus in (1, 8, 64)] for way in ways]
        times = [" / ".join(_time(3600 * each) for each in row) for row in hours]
        rows.append([f"{name} ({count})", *stored, *times])
    return markdown(head, rows)


def plan() -> str:
    """The whole plan as Markdown."""
    per_gpu = GPU_RATE / image_flops()
    mask_rates = [GPU_RATE / clip_flops(size) for size in ((1024, 2048), (512, 1024))]
    cores = [loader_cores(rate) for rate in (8 * per_gpu, *mask_rates)]
    sent = {gpus: ring_bytes(gpus, GRADIENT_BYTES) / 1e6 for gpus in (8, 64)}
    needed, official = (hiding_batch(64, b) for b in (GRADIENT_BYTES, OFFICIAL_GRADIENT_BYTES))
    return f"""**Calculated, not run.** Assumed rates, none of them measured by this project:

- {GPU_RATE / 1e12:.0f} TFLOP/s per GPU, derived: 40 % (the target of benchmarks/train_step.py) of
  {MATRIX_RATE / 1e12:.0f}, which large bf16 matrix products are said to reach on an H200; in fp32
  {FP32_RATE / 1e12:.0f}, 40 % of the data sheet's 67;
- NVLink {NVLINK / 1e9:.0f} GB/s, {NETWORK * 8e-9:.0f} Gb/s between machines of
  {GPUS_PER_MACHINE} GPUs: data sheets;
- {SYNC_LATENCY[8] * 1e6:.0f} µs for a small collective among 8 GPUs, {SYNC_LATENCY[64] * 1e6:.0f}
  among 64: guesses; data loading keeps up, at {DECODE_MS} CPU-ms an image (benchmarks/RESULTS.md
  has what a core of a CPU was measured to take).

Counted: FLOPs, parameters, bytes. All that follows is derived from the rates and these counts.

One image costs {image_flops() / 1e12:.2f} TFLOP. A step reduces {GRADIENT_BYTES / 1e6:.0f} MB of
gradients: each GPU sends {sent[8]:.0f} MB among 8, {sent[64]:.0f} MB among 64. The backward pass
hides that from {hiding_batch(8, GRADIENT_BYTES)} image per GPU on 8, from {needed} on 64 (the
official {OFFICIAL_GRADIENT_BYTES / 1e6:.0f} MB: from {official}).

{training_table()}

Training takes up to {per_gpu:.0f} images/s per GPU, {8 * per_gpu:.0f} per machine: {cores[0]:.0f}
cores at {DECODE_MS} CPU-ms an image ({cores[0] * OFFICIAL_DECODE_MS / DECODE_MS:.0f} at the
official {OFFICIAL_DECODE_MS}). Masks take {mask_rates[0]:.0f} images/s per GPU at 1024x2048,
{cores[1]:.1f} cores, and {mask_rates[1]:.0f} at 512x1024, {cores[2]:.0f} cores: there reading is
the limit.

{data_table()}
"""


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds else "0"


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else "< 1 min"


def _gb(size: float) -> str:
    return f"{size / 1e12:.1f} TB" if size >= 1e12 else f"{size / 1e9:.1f} GB"


if __name__ == "__main__":
    print(plan())
