"""MaskCLIP (Zhou et al. 2022): CLIP's class scores at every position; pseudo-masks from them."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.doctor.sizes import read_size
from datasets.labels import IGNORE_INDEX
from datasets.training import EvaluationSet
from datasets.transforms import fit_into
from models.clip_features import (
    MaskCLIPOptions,
    check_options,
    dense_features,
    grid_stride,
    round_to_bf16,
)
from models.clip_loading import clip_sha256
from models.inference import Size, resize, scaled, window_scores, windows
from models.pamr import pamr
from utils.safe.errors import InputError
from utils.safe.files import sha256
from utils.teacher_settings import resized

LOGIT_SCALE = 100  # of OpenAI's CLIP, the largest: probabilities are softmax(100 cosine)
_PIXELS_AT_ONCE = 512 * 1024  # of a batch of windows: a few suffice to fill a GPU


class MaskCLIP(nn.Module):
    """Frozen CLIP image tower and text embeddings (K, D): images -> pseudo-masks.

    Always in eval mode and without gradients; its masks may be targets in autograd.
    `bf16` rounds its matrices once, for use under bfloat16 autocast.
    """

    def __init__(
        self,
        visual: nn.Module,
        text_embeddings: Tensor,
        options: MaskCLIPOptions | None = None,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        if text_embeddings.shape[1] != visual.output_dim:
            raise InputError(
                f"this CLIP needs text embeddings of width {visual.output_dim}, "
                f"found {text_embeddings.shape[1]}: clip_text and clip_model must belong together"
            )
        self.visual = visual.requires_grad_(False).eval()
        if bf16:
            round_to_bf16(self.visual)
        self.register_buffer("text_embeddings", text_embeddings.detach().clone())
        self.options = options or MaskCLIPOptions()
        check_options(self.visual, self.options)

    def train(self, mode: bool = True) -> "MaskCLIP":
        """Stay in eval mode: the ResNet towers have batch norm."""
        return super().train(False)

    def sha256(self, clip_model: str) -> dict[str, str | None]:
        """Digests that identify the teacher: of CLIP's weights and of the text embeddings."""
        text = self.text_embeddings.float().cpu().contiguous().numpy().tobytes()
        return {"weights": clip_sha256(clip_model), "text": sha256(text)}

    @torch.no_grad()
    def forward(self, image: Tensor, image_labels: Tensor, size: tuple[int, int]) -> Tensor:
        """Normalised image (B, 3, h, w), image_labels (B, K) -> pseudo_mask (B, H, W), long."""
        scores = self.upsampled_scores(image, size, image_labels)
        scores = self.refine(scores, image, image_labels)
        return to_pseudo_mask(scores, image_labels, self.options.label_filter)

    @torch.no_grad()
    def upsampled_scores(
        self, image: Tensor, size: tuple[int, int], image_labels: Tensor | None = None
    ) -> Tensor:
        """Class scores at `size` (H, W), before PAMR: normalised (B, 3, h, w) -> (B, K, H, W).

        The image is resized to `short_side` first, and scored in windows, where the options say so.
        image_labels (B, K): for `TemplateExperts`; other scores don't depend on them. Raises
        InputError for a window that is larger than the resized image.
        """
        image = self._resized(image)
        if self.options.window is None:
            return self._scores_at(image, size, image_labels)
        score = partial(self._scores_at, image_labels=image_labels)
        scores = window_scores(score, image, *self._windows(image))
        return resize(scores, size)

    @torch.no_grad()
    def refine(self, scores: Tensor, image: Tensor, image_labels: Tensor | None = None) -> Tensor:
        """PAMR of `upsampled_scores` (B, K, H, W), or the scores themselves where it is off.

        image: normalised (B, 3, h, w); as in NACLIP, PAMR sees it at the size that CLIP sees it,
        resized to that of the scores. On a CPU, where it takes long, only classes that some image
        has by image_labels (B, K) are refined: PAMR does not mix classes, so theirs are the same.
        """
        if self.options.pamr_steps == 0:
            return scores
        image = resize(self._resized(image), scores.shape[-2:])
        steps, dilations = self.options.pamr_steps, self.options.pamr_dilations
        if image_labels is None or image.is_cuda:  # to choose classes, the host would wait
            return pamr(image, scores, steps, dilations)
        present, refined = (image_labels != 0).any(0), scores.clone()
        refined[:, present] = pamr(image, scores[:, present], steps, dilations)
        return refined

    @torch.no_grad()
    def scores(self, image: Tensor) -> Tensor:
        """`refine_scores` on CLIP's grid: normalised image (B, 3, h, w) -> (B, K, gh, gw).

        CLIP sees the image as it is: neither `short_side` nor windows count here.
        """
        features, keys = dense_features(self.visual, image, self.options)
        return refine_scores(class_scores(features, self.text_embeddings), keys, self.options)

    def _scores_at(
        self, image: Tensor, size: tuple[int, int], image_labels: Tensor | None = None
    ) -> Tensor:
        """`scores` at `size` (H, W): normalised image (B, 3, h, w) -> (B, K, H, W)."""
        return self._upsample(self.scores(image), size, image.shape[-2:])

    def _upsample(
        self, scores: Tensor, size: tuple[int, int], input_size: tuple[int, int]
    ) -> Tensor:
        """Scores on the grid of an image of `input_size` -> `size`."""
        stride = grid_stride(self.visual)
        return upsample_scores(scores, size, input_size, stride, self.options.padding)

    def seen(self, image: Tensor) -> Iterator[Tensor]:
        """The input of CLIP for a normalised image (B, 3, h, w), in one or several batches.

        The whole image, resized to `short_side` where that is set, or the windows of it.
        """
        image = self._resized(image)
        if self.options.window is None:
            yield image
        else:
            yield from (pixels for _, pixels in windows(image, *self._windows(image)))

    def _windows(self, image: Tensor) -> tuple[tuple[int, int], tuple[int, int] | None, int]:
        """Window, stride and number of windows at once for a resized image."""
        window = self.options.window
        _check_window(window, tuple(image.shape[-2:]), "the image")
        at_once = max(1, _PIXELS_AT_ONCE // (len(image) * window[0] * window[1]))
        return window, self.options.stride, at_once

    def _resized(self, image: Tensor) -> Tensor:
        """The image (B, 3, h, w) with a shorter side of `short_side` pixels, where that is set."""
        return resize(image, resized(tuple(image.shape[-2:]), self.options.short_side))


def check_views(options: MaskCLIPOptions, scales: Sequence[float], grid: tuple[int, int]) -> None:
    """Raise InputError where views of `multi_view_scores` contradict how the teacher sees images.

    scales, grid: the ratios, and the rows and columns of crops.
    """
    if grid != (1, 1) and (options.window or options.short_side):
        own = "cuts every image into windows" if options.window else "resizes every image"
        raise InputError(f"--grid cuts the image, and this teacher {own} itself; leave out --grid")
    if options.short_side and list(scales) != [1.0]:
        raise InputError(
            "--ratio would change nothing, as this teacher resizes every image to a short_side of "
            f"{options.short_side} pixels; leave out --ratio, or set another short_side"
        )


def check_images(options: MaskCLIPOptions, data: EvaluationSet, scales: Sequence[float]) -> None:
    """Raise InputError naming an image into which the teacher's window does not fit at a scale.

    Reads the images' headers, but none where the window fits into every image.
    """
    if options.window is None or max(options.window) <= (options.short_side or 0):
        return
    for name, file in data.images.items():
        size = read_size(file)
        if size is None:  # it will be named by the error of reading the image
            continue
        smallest = scaled(fit_into(size, data.image_size or size), min(scales))
        _check_window(options.window, resized(smallest, options.short_side), f"the image {name}")


def _check_window(window: Size, size: Size, image: str) -> None:
    if window[0] > size[0] or window[1] > size[1]:
        raise InputError(
            f"the teacher's window of {window[0]}x{window[1]} pixels is larger than {image}, "
            f"{size[0]}x{size[1]} where the teacher sees it; choose a smaller window or a larger "
            "short_side"
        )


def class_scores(features: Tensor, text_embeddings: Tensor) -> Tensor:
    """Eq. (1) of Kim et al. 2024, inside the arg max: cosine of each position with each class.

    (B, D, h, w), (K, D) -> (B, K, h, w), float32 also under autocast.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = F.normalize(features.float(), dim=1)
        text_embeddings = F.normalize(text_embeddings.float(), dim=1)
        return torch.einsum("bdhw,kd->bkhw", features, text_embeddings)


def refine_scores(scores: Tensor, keys: Tensor | None, options: MaskCLIPOptions) -> Tensor:
    """MaskCLIP's prompt denoising and key smoothing, where on: (B, K, h, w), (B, h*w, C)."""
    if options.prompt_denoising > 0:
        scores = denoise_prompts(scores, options.prompt_denoising)
    if options.key_smoothing > 0:
        scores = smooth_keys(scores, keys, options.key_smoothing, options.key_smoothing_norm)
    return scores


def denoise_prompts(scores: Tensor, threshold: float) -> Tensor:
    """Remove a class (score -100) whose probability reaches `threshold` nowhere in the image."""
    confidence = (LOGIT_SCALE * scores).softmax(1).amax((2, 3), keepdim=True)
    return scores.masked_fill(confidence < threshold, -100.0)


def smooth_keys(scores: Tensor, keys: Tensor, threshold: float, norm: str) -> Tensor:
    """Where the best probability is below `threshold`, sum over positions with similar keys.

    (B, K, h, w), (B, h*w, C) -> (B, K, h, w): probabilities, or weighted sums of them.
    """
    probabilities = (LOGIT_SCALE * scores).softmax(1).flatten(2)
    with torch.autocast(scores.device.type, enabled=False):
        # official code: normalised along the tokens / here: along the channels
        keys = F.normalize(keys.float(), dim=2 if norm == "channels" else 1)
        smoothed = (probabilities @ keys) @ keys.transpose(1, 2)  # no tokens x tokens matrix
    unsure = probabilities.amax(1, keepdim=True) < threshold
    return torch.where(unsure, smoothed, probabilities).view_as(scores)


def upsample_scores(
    scores: Tensor, size: tuple[int, int], input_size: tuple[int, int], stride: int, padding: str
) -> Tensor:
    """Bilinear, onto the pixels of the image without its padding: (B, K, gh, gw) -> (B, K, H, W).

    The grid covers gh*stride x gw*stride pixels, of which the image is the upper left input_size
    (h, w). padding="stretch" (official code) squeezes the whole grid onto the image.
    """
    scores = scores.contiguous(memory_format=torch.channels_last)
    covered = tuple(cells * stride for cells in scores.shape[-2:])
    if padding == "stretch" or covered == tuple(input_size):
        return F.interpolate(scores, size, mode="bilinear", align_corners=False)
    # Centres of the output pixels, in coordinates where the covered area is -1 .. 1.
    rows, columns = (
        (torch.arange(n, device=scores.device) + 0.5) * (2 * inside / (n * whole)) - 1
        for n, inside, whole in zip(size, input_size, covered, strict=True)
    )
    rows, columns = torch.meshgrid(rows, columns, indexing="ij")
    places = torch.stack([columns, rows], dim=-1).expand(len(scores), -1, -1, -1)
    return F.grid_sample(scores, places, padding_mode="border", align_corners=False)


def suppress_absent(scores: Tensor, image_labels: Tensor, how: str = "mask") -> Tensor:
    """Label filtering: suppress scores (B, K, h, w) of classes absent from image_labels (B, K).

    "mask": -inf, so that they never win. "multiply" (official code): 0, which beats a negative
    score.
    """
    # Classes last in memory: the arg max after this runs along them.
    scores = scores.contiguous(memory_format=torch.channels_last)
    present = image_labels[:, :, None, None]
    if how == "multiply":
        return scores * present
    return scores + torch.where(present == 0, float("-inf"), 0.0).to(scores.dtype)


def to_pseudo_mask(scores: Tensor, image_labels: Tensor, how: str = "mask") -> Tensor:
    """Eq. (1) of Kim et al. 2024 after label filtering: (B, K, H, W), (B, K) -> (B, H, W), long.

    An image without any label is IGNORE_INDEX everywhere ("multiply", official code: class 0).
    """
    pseudo_mask = suppress_absent(scores, image_labels, how).argmax(1)
    if how == "multiply":
        return pseudo_mask
    unlabelled = (image_labels == 0).all(1)
    return pseudo_mask.masked_fill(unlabelled[:, None, None], IGNORE_INDEX)
