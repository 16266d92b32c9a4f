"""models/template_experts.py: by hand, label filtering before the softmax, memory, the file."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from largest import Largest
from tiny_clip import tiny_clip

from models import template_experts as module
from models.clip_features import MaskCLIPOptions
from models.maskclip import to_pseudo_mask
from models.template_experts import (
    ExpertsFile,
    TemplateExperts,
    choose_templates,
    class_probabilities,
    expert_embeddings,
    fuse,
    named_experts,
    rank_templates,
    template_entropies,
)
from models.text import template_embeddings, text_embeddings
from utils.safe.errors import InputError

OPTIONS = MaskCLIPOptions(residual=False, mlp=False)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape, seed=0):
    return F.normalize(random(*shape, seed=seed), dim=-1)


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


def teacher_of(clip, classes=4, options=OPTIONS):
    return TemplateExperts(
        clip.visual, unit(classes, 64, seed=1), unit(classes, classes, 64, seed=2), options
    )


# ---- fusion ----


def test_fusion_by_hand():
    """Four pixels: no expert finds its own class, one does, two do, two are equally sure."""
    default = torch.tensor([0.2, 0.3, 0.5])
    expert_0 = [[0.3, 0.4, 0.3], [0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.5, 0.3, 0.2]]
    expert_1 = [[0.5, 0.3, 0.2], [0.4, 0.3, 0.3], [0.1, 0.7, 0.2], [0.2, 0.5, 0.3]]
    expert_2 = [[0.9, 0.1, 0.0]] * 4
    default = default.view(1, 3, 1, 1).expand(1, 3, 1, 4)
    experts = [torch.tensor(e).T.reshape(1, 3, 1, 4) for e in (expert_0, expert_1, expert_2)]
    everything = torch.ones(1, 3, dtype=torch.bool)
    fused = fuse(default, enumerate(experts), everything)
    expected = torch.tensor([[0.2, 0.3, 0.5], expert_0[1], expert_1[2], expert_0[3]])
    assert torch.equal(fused[0, :, 0].T, expected)
    without_1 = fuse(default, enumerate(experts), torch.tensor([[True, False, True]]))
    assert torch.equal(without_1[0, :, 0, 2], torch.tensor(expert_0[2]))


def test_filtering_after_the_fusion_is_something_else():
    """The expert of an absent class takes a pixel, and the arg max of what it leaves is wrong."""
    cosines = torch.tensor([[0.30, 0.28, 0.10], [0.20, 0.29, 0.31]])  # the average; expert 2
    cosines = cosines.view(2, 1, 3, 1, 1)
    labels = torch.tensor([[1.0, 1.0, 0.0]])
    masks = []
    for possible in (labels != 0, torch.ones(1, 3, dtype=torch.bool)):
        average, expert = (class_probabilities(one, possible) for one in cosines)
        fused = fuse(average, [(2, expert)], possible)
        masks.append(int(to_pseudo_mask(fused, labels)))
    assert masks == [0, 1]


# ---- the teacher ----


@pytest.mark.parametrize(
    "options", [OPTIONS, replace(OPTIONS, window=(32, 32), stride=(16, 24), pamr_steps=2)]
)
def test_scores_are_probabilities_of_the_present_classes(clip, options):
    teacher, image = teacher_of(clip, options=options), random(3, 3, 48, 64)
    labels = torch.tensor([[1.0, 0, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]])
    scores = teacher.upsampled_scores(image, (50, 60), labels)
    torch.testing.assert_close(scores.sum(1), torch.ones(3, 50, 60))
    assert (scores[:2][labels[:2] == 0] == 0).all()
    for i in range(3):  # windows of several images keep the labels of their own image
        alone = teacher.upsampled_scores(image[i : i + 1], (50, 60), labels[i : i + 1])
        torch.testing.assert_close(scores[i : i + 1], alone, atol=1e-5, rtol=0)
    everything = teacher.upsampled_scores(image[2:], (50, 60))
    torch.testing.assert_close(scores[2:], everything, atol=1e-5, rtol=0)
    mask = teacher(image, labels, (50, 60))
    assert set(mask[0].unique().tolist()) <= {0, 2} and (mask[2] == 255).all()


def test_experts_like_the_average_change_nothing(clip):
    average, image = unit(4, 64, seed=1), random(1, 3, 40, 40)
    teacher = TemplateExperts(clip.visual, average, average.expand(4, 4, 64), OPTIONS)
    cosines = teacher.scores(image)
    everything = torch.ones(1, 4, dtype=torch.bool)
    expected = teacher._upsample(class_probabilities(cosines, everything), (40, 40), (40, 40))
    torch.testing.assert_close(teacher.upsampled_scores(image, (40, 40)), expected)
    other = teacher_of(clip).upsampled_scores(image, (40, 40))
    assert (other - expected).abs().max() > 0.01


def test_one_expert_at_a_time(clip):
    """No map of classes x classes at the size of the image."""

    with Largest(stored=True) as largest:
        teacher_of(clip, classes=19).upsampled_scores(random(1, 3, 32, 32), (96, 128))
    assert largest.numel == 19 * 96 * 128


@pytest.mark.parametrize("change", [{"key_smoothing": 0.5}, {"prompt_denoising": 0.5}])
def test_refinements_of_maskclip_are_refused(clip, change):
    with pytest.raises(InputError, match="experts .*set both to 0"):
        teacher_of(clip, options=replace(OPTIONS, **change))


# ---- ranking and choice ----


def test_entropies_by_hand():
    cosines = 0.02 * random(2, 3, 4, 5)
    possible = torch.tensor([True, False, True])
    sums, counts = template_entropies(cosines, possible)
    for t in range(2):
        p = (100 * cosines[t, possible]).softmax(0)
        entropy = -(p * p.log()).sum(0)
        for row, c in enumerate((0, 2)):
            says = p.argmax(0) == row
            assert counts[t, c] == says.sum()
            assert sums[t, c].item() == pytest.approx(entropy[says].sum().item(), abs=1e-5)
    assert (counts[:, 1] == 0).all() and (sums[:, 1] == 0).all()


def test_choice_leaves_out_templates_that_never_predict_the_class():
    sums = torch.tensor([[4.0, 0], [1, 5], [0, 0], [3, 0], [9, 0], [2, 0]]).double()
    counts = torch.tensor([[2, 0], [1, 1], [0, 0], [1, 0], [3, 0], [1, 0]])
    assert choose_templates(sums, counts).tolist() == [[1, 0, 5, 3], [1, -1, -1, -1]]
    few = choose_templates(sums[:2], counts[:2])
    assert few.tolist() == [[1, 0, -1, -1], [1, -1, -1, -1]]


def test_experts_average_the_rows_of_their_templates():
    rows, average = unit(5, 3, 8), unit(3, 8, seed=1)
    experts = expert_embeddings(rows, average, torch.tensor([[4, 0], [2, -1], [-1, -1]]))
    torch.testing.assert_close(experts[0], F.normalize((rows[4] + rows[0]) / 2, dim=1))
    torch.testing.assert_close(experts[1], rows[2])
    assert torch.equal(experts[2], average)


def test_template_embeddings_are_the_parts_of_the_average(clip):
    prompts, templates = (("road", "street"), ("car",)), ("a {}.", "the {}.", "{}")
    rows = template_embeddings(clip, prompts, templates)
    assert rows.shape == (3, 2, 64)
    for i, template in enumerate(templates):
        torch.testing.assert_close(rows[i], text_embeddings(clip, prompts, (template,)))
    average = F.normalize(rows[:, 1].mean(0), dim=0)
    torch.testing.assert_close(average, text_embeddings(clip, prompts, templates)[1])


@pytest.mark.parametrize(
    "options", [OPTIONS, replace(OPTIONS, short_side=48, window=(32, 32), stride=(16, 16))]
)
def test_ranking_sees_what_the_teacher_sees(clip, options, monkeypatch):
    teacher, rows = teacher_of(clip, options=options), unit(9, 4, 64, seed=3)
    images = [random(1, 3, 40, 56, seed=i) for i in range(3)]
    labels = [torch.tensor([one]) for one in ([1.0, 1, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1])]
    sums = counts = 0
    for image, label in list(zip(images, labels, strict=True))[::2]:  # one class: left out
        for view in teacher.seen(image):
            for one in view.split(1):
                cosines = [
                    TemplateExperts(clip.visual, row, teacher.experts, options).scores(one)[0]
                    for row in rows
                ]
                part = template_entropies(torch.stack(cosines), label[0] != 0)
                sums, counts = sums + part[0], counts + part[1]
    expected = choose_templates(sums, counts)
    samples = list(zip(images, labels, strict=True))
    assert torch.equal(rank_templates(teacher, rows, samples), expected)
    assert len(expected.unique()) > 3

    # On two ranks, each of which has seen some of the images: the same choice.
    seen = []
    monkeypatch.setattr(module, "gather_objects", lambda value: seen.append(value) or [value])
    rank_templates(teacher, rows, samples[:1])
    rank_templates(teacher, rows, samples[1:])
    monkeypatch.setattr(module, "gather_objects", lambda value: seen)
    assert torch.equal(rank_templates(teacher, rows, []), expected)


# ---- the file ----


def test_the_file_gives_the_choice_back(tmp_path):
    templates, classes = ("a {}.", "b {}.", "c {}."), ("road", "car")
    chosen = torch.tensor([[2, 0, -1, -1], [-1, -1, -1, -1]])
    file = ExpertsFile(tmp_path / "out", {"split": "train", "grid": (1, 1)})
    assert file.read(classes, templates) is None
    file.write(named_experts(classes, templates, chosen))
    assert json.loads(file.path.read_text())["experts"] == {"road": ["c {}.", "a {}."], "car": []}
    assert torch.equal(file.read(classes, templates), chosen)
    assert ExpertsFile(file.folder, {}, overwrite=True).read(classes, templates) is None
    with pytest.raises(InputError, match="other split .*--overwrite"):
        ExpertsFile(file.folder, {"split": "val"}).read(classes, templates)
    for damage in (lambda text: text[:-9], lambda text: text.replace("c {}", "d {}")):
        whole = file.path.read_text()
        file.path.write_text(damage(whole))
        with pytest.raises(InputError, match=r"experts\.json can't be read .*--overwrite"):
            file.read(classes, templates)
        file.path.write_text(whole)
