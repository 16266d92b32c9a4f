"""A whole training step from a batch on the host: both CLIP masks, network, loss, backward, SGD.

CPU: batch 2 of 256x512, patch 256x128, resize ratio 1.5. GPU: the paper's batch 8 of 512x1024,
patch 512x256, ratios U[1, 2), and what share of the measured matrix rate the useful FLOPs are.
"""

from functools import cache
from typing import Any

from benchmarks.flops import convolution_rate, matrix_rate, step_flops
from benchmarks.step_ways import Setting, Way, our_way, published_way, setting
from benchmarks.timing import Case, Options, Result

PHASES = ("CARB", "warm-up")
# CPU-seconds of the authors' program: convolutional network, and CLIP with the rest. They were
# taken where a convolution like the ASPP's ran at AUTHORS_RATE FLOP per CPU-second.
AUTHORS_NETWORK, AUTHORS_REST = 16.9, 6.0
AUTHORS_RATE = 97e9
FP32 = {"precision": "fp32", "channels_last": True}
BF16 = {"precision": "bf16", "channels_last": True}
# Our settings, least ratio, most relative difference of the losses of two steps: bfloat16 rounds
# the network's activations and may label a pixel otherwise.
ON_CPU = {"fp32": (FP32, 1.1, 1e-4), "bf16": (BF16, 2.0, 0.01)}
ON_GPU = {
    "bf16": (BF16, 3.0, 0.01),
    "bf16, compiled": (BF16 | {"compile": True}, 3.0, 0.01),
}


def cases(options: Options) -> list[Case]:
    ours = ON_GPU if options.device.startswith("cuda") else ON_CPU
    phases = PHASES[:1] if options.quick else PHASES
    return [_case(phase, name, *ours[name], options) for phase in phases for name in ours]


def _case(
    phase: str,
    name: str,
    changes: dict[str, Any],
    target: float,
    tolerance: float,
    options: Options,
) -> Case:
    size, device = setting(options), options.device
    on_gpu = device.startswith("cuda")

    @cache  # when its turn comes, not before: each way has a network of its own
    def ways() -> tuple[Way, Way]:
        balanced = phase == "CARB"
        return (
            published_way(size, balanced, device),
            our_way(size, balanced, device, **changes),
        )

    def check() -> str:
        published, ours = ways()
        pairs: list[tuple[float, float]] = []
        while len(pairs) < 2:
            pairs += zip(published(), ours(), strict=True)
        pairs = pairs[:2]
        worst = max(abs(own / theirs - 1) for theirs, own in pairs)
        found = "losses {:.5f}/{:.5f}, {:.5f}/{:.5f} differ by {:.1e}".format(
            *(loss for pair in pairs for loss in pair), worst
        )
        assert worst <= tolerance, f"{found}, more than {tolerance:g}"
        return f"{found} (at most {tolerance:g})"

    def note(result: Result) -> str:
        if on_gpu:
            return share_of_rate(result, size, device)
        return "" if options.quick else other_machine(result)

    real = on_gpu or not options.quick
    return Case(
        f"training step, {phase}, {name}",
        check,
        lambda: ways()[0](),
        lambda: ways()[1](),
        target if real else None,
        AUTHORS_NETWORK + AUTHORS_REST if real and not on_gpu else None,
        rounds=3,
        units=size.steps,
        note=note,
    )


def other_machine(result: Result) -> str:
    """The authors' CPU-seconds, brought to this machine's speed of convolution."""
    rate = convolution_rate()
    here = AUTHORS_NETWORK * AUTHORS_RATE / rate + AUTHORS_REST
    deviation = result.published["cpu"] / here - 1
    return (
        f"theirs were measured at {AUTHORS_RATE / 1e9:.0f} GFLOP per CPU-s of convolution, here it "
        f"is {rate / 1e9:.0f}: that makes {here:.1f} CPU-s, of which published is {deviation:+.0%}"
    )


def share_of_rate(result: Result, size: Setting, device: str) -> str:
    """Our useful FLOP/s against those of large bfloat16 matrix products, in one sentence."""
    config = size.config()
    views = [size.local_view(config, step) for step in range(size.steps)]
    flops = sum(step_flops(size.size, [view.size] * size.batch) for view in views) / len(views)
    rate = matrix_rate(device)
    seconds = result.ours["wall"]
    return (
        f"{flops / seconds / rate:.1%} of the matrix rate ({rate / 1e12:.0f} TFLOP/s in bfloat16): "
        f"{flops / 1e12:.2f} useful TFLOP in {seconds:.4f} s, floor {flops / rate:.4f} s"
    )


if __name__ == "__main__":
    from benchmarks.run import main_of

    main_of(cases)
