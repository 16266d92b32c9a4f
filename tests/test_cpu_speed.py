"""models/kernels/cpu_speed.py against the plain operations."""

import pytest
import torch
import torch.nn.functional as F

from models.kernels import cpu_speed, free_memory
from models.kernels.cpu_speed import DilatedConv2d, attention, linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 197, 8), (3, 50, 64)])
def test_linear_is_the_matrix_product(shape: tuple[int, int, int], bias: bool) -> None:
    torch.manual_seed(0)
    tokens, weight = torch.randn(shape), torch.randn(24, shape[2])
    offset = torch.randn(24) if bias else None
    found = linear(tokens, weight, offset)
    torch.testing.assert_close(found, F.linear(tokens, weight, offset), rtol=1e-5, atol=1e-5)
    assert found.is_contiguous()


def test_linear_takes_a_part_of_the_tokens() -> None:
    tokens, weight = torch.randn(2, 9, 16)[:, 1:], torch.randn(4, 16)
    torch.testing.assert_close(
        linear(tokens, weight), F.linear(tokens, weight), rtol=1e-5, atol=1e-5
    )


def test_linear_obeys_autocast_and_other_types() -> None:
    tokens, weight = torch.randn(2, 9, 16), torch.randn(4, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linear(tokens, weight), F.linear(tokens, weight))
    double = tokens.double()
    assert torch.equal(linear(double, weight.double()), F.linear(double, weight.double()))


@pytest.mark.parametrize("queries", [4, 5, 2048])
def test_attention_in_bfloat16_is_as_exact_as_torchs(monkeypatch, queries: int) -> None:
    monkeypatch.setattr(cpu_speed, "_QUERIES", queries)
    torch.manual_seed(0)
    qkv = torch.randn(2, 13, 3 * 32)
    exact = F.scaled_dot_product_attention(*split(qkv))
    theirs = F.scaled_dot_product_attention(*split(qkv.bfloat16()))
    ours = attention(*split(qkv.bfloat16()))
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).abs().mean() < 1.5 * (theirs - exact).abs().mean()


def test_attention_in_float32_is_torchs() -> None:
    qkv = torch.randn(2, 13, 3 * 32)
    assert torch.equal(attention(*split(qkv)), F.scaled_dot_product_attention(*split(qkv)))


def split(qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(qkv.unflatten(2, (3, 4, -1)).permute(2, 0, 3, 1, 4))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dilation", [1, 2, 6, 11, 12, 40])
def test_dilated_convolution_and_its_gradients_are_torchs(dilation: int, memory_format) -> None:
    """Also where some or all taps but the middle one see padding alone."""
    torch.manual_seed(0)
    ours, theirs = DilatedConv2d(8, 5, dilation).double(), plain_convolution(8, 5, dilation)
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(2, 8, 11, 13, dtype=torch.float64).to(memory_format=memory_format)
    results = []
    for convolution in (ours, theirs):
        leaf = image.clone().requires_grad_()
        found = convolution(leaf)
        (found * torch.arange(found.numel()).view(found.shape).cos()).sum().backward()
        results.append((found, leaf.grad, convolution.weight.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("autocast", [False, True])
def test_taps_are_for_channels_last_in_training(memory_format, autocast: bool) -> None:
    """In NCHW, the default, torch's own convolution is the faster one."""
    convolution = DilatedConv2d(8, 5, 2)
    image = torch.randn(2, 8, 11, 13).to(memory_format=memory_format)
    for training in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            gradient = convolution.train(training)(image).grad_fn
        by_taps = "_DilatedConv2d" in type(gradient).__name__
        assert by_taps == (training and memory_format == torch.channels_last)


@pytest.mark.parametrize("dilation", [2, 40])
def test_dilated_convolution_under_autocast(dilation: int) -> None:
    torch.manual_seed(0)
    ours, theirs = DilatedConv2d(8, 5, dilation), plain_convolution(8, 5, dilation).float()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(2, 8, 11, 13).to(memory_format=torch.channels_last)
    for convolution in (ours, theirs):
        with torch.autocast("cpu", torch.bfloat16):
            found = convolution(image)
        assert found.dtype == torch.bfloat16
        found.float().square().sum().backward()
    assert ours.weight.grad.dtype == torch.float32
    scale = theirs.weight.grad.abs().max()
    assert (ours.weight.grad - theirs.weight.grad).abs().max() < 0.01 * scale


def test_a_large_weight_costs_little_memory_in_backward(monkeypatch) -> None:
    """The graph keeps the weight itself; free memory goes back before the gradient is made."""
    released = []
    monkeypatch.setattr(cpu_speed, "release", lambda: released.append(1))
    convolution = DilatedConv2d(8, 5, 2)
    image = torch.randn(1, 8, 5, 5).to(memory_format=torch.channels_last)
    for large, times in ((convolution.weight.numel() + 1, 0), (convolution.weight.numel(), 1)):
        monkeypatch.setattr(cpu_speed, "_LARGE", large)
        with torch.autocast("cpu", torch.bfloat16):
            found = convolution(image)
        _, saved = found.grad_fn.saved_tensors
        assert saved.data_ptr() == convolution.weight.data_ptr()
        found.float().sum().backward()
        assert len(released) == times


def test_memory_is_released_where_the_c_library_can(monkeypatch) -> None:
    free_memory.release()
    monkeypatch.setattr(free_memory.ctypes, "CDLL", lambda name: object())
    assert free_memory._find_trim() is None
    monkeypatch.setattr(free_memory, "_TRIM", None)
    free_memory.release()


def plain_convolution(in_channels: int, out_channels: int, dilation: int) -> torch.nn.Conv2d:
    return torch.nn.Conv2d(
        in_channels, out_channels, 3, 1, dilation, dilation, bias=False, dtype=torch.float64
    )
