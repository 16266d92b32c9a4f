"""benchmarks/scaling_plan.py and scale.py: their formulas on numbers computed by hand."""

import pytest
from torch import nn

from benchmarks import scale, scaling_plan
from benchmarks.output import ROOT
from benchmarks.scaling_plan import (
    all_reduce_seconds,
    efficiency,
    exposed_seconds,
    hiding_batch,
    image_flops,
    loader_cores,
    local_clip_flops,
    mask_hours,
    plan,
    ring_bytes,
    schedule_steps,
    step_seconds,
    sync_seconds,
)

MB = 1e6


def test_page_holds_what_the_script_prints():
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert plan().replace(" --- ", "---") in page.replace(" --- ", "---")
    assert "not run" in plan()


def test_ring():
    assert ring_bytes(1, 100 * MB) == 0
    assert ring_bytes(2, 100 * MB) == 100 * MB
    assert ring_bytes(8, 100 * MB) == 175 * MB
    assert all_reduce_seconds(8, 450 * MB) == pytest.approx(1.75e-3)  # at 450 GB/s
    assert all_reduce_seconds(64, 64 * MB) == pytest.approx(126e6 / 50e9)  # at 400 Gb/s


def test_what_the_backward_pass_hides(monkeypatch):
    monkeypatch.setattr(scaling_plan, "GPU_RATE", 2044e9 / 0.001)  # backward: 1 ms an image
    assert exposed_seconds(64, 1, 64 * MB) == pytest.approx(2.52e-3 - 1e-3)
    assert exposed_seconds(64, 3, 64 * MB) == 0
    assert hiding_batch(64, 64 * MB) == 3
    assert hiding_batch(8, 64 * MB) == 1


def test_step(monkeypatch):
    assert sync_seconds(1) == 0 and sync_seconds(8) == pytest.approx(118 * 30e-6)
    assert step_seconds(1, 8) == pytest.approx(8 * image_flops() / 316e12)
    assert efficiency(1, 8) == 1
    compute = image_flops() / 316e12
    assert efficiency(8, 1) == pytest.approx(compute / (compute + 118 * 30e-6))


def test_flops():
    # 284 n d^2 + 44 n^2 d; on average n = 1195, n^2 = 1.63 M, and more as cells are filled up
    seen, whole_cells = local_clip_flops(), 284 * 1195 * 768**2 + 44 * 1.63e6 * 768
    assert whole_cells < seen < 1.06 * whole_cells
    assert image_flops() - seen == pytest.approx(3067e9 + 489e9, rel=0.001)


def test_schedule_and_loading():
    assert [schedule_steps(batch) for batch in (8, 64, 512)] == [30000, 3750, 469]
    assert loader_cores(100) == 3


def test_mask_hours():
    # 8193 tokens: 1.372 TFLOP of weights, 2.268 of attention, 0.016 of embedding and projection
    hours = mask_hours(1_000_000, 8, (1024, 2048), 316e12)
    assert hours == pytest.approx(3.657e12 * 1e6 / 316e12 / 8 / 3600, rel=1e-3)


def test_bytes_of_a_step():
    found = scale.network_traffic(
        nn.Sequential(nn.Conv2d(3, 10, 1), nn.BatchNorm2d(10), nn.Conv2d(10, 1, 1, bias=False))
    )
    assert found["parameters"] == 40 + 20 + 10
    assert found["gradients"] == 280
    assert found["batch_norm"] == 4 * 21 + 4 * 20
    assert found["running_statistics"] == 80
    real = scale.traffic()["v2"]
    assert real["gradients"] == scaling_plan.GRADIENT_BYTES
    assert 2 * real["batch_norms"] == scaling_plan.SYNC_COLLECTIVES


def test_summary_of_a_run():
    lines = [{"loss": 2.0, "images_per_second": 8.0}] * 10
    lines += [{"loss": 1.0, "images_per_second": 12.0}] * 10
    reference = [1.0] + [2.0] * 9 + [0.5] * 10
    found = scale.summary(lines, reference, {"steps_per_second": 2.0})
    assert found["steps_per_second"] == 3 and found["speed_up"] == 1.5
    assert found["final_loss"] == 1 and found["first_step_difference"] == 1
    assert found["largest_difference"] == 1 and found["median_difference"] == 1
