"""The whole method, step by step, against the authors' head: CLIP masks, ASPP, losses, SGD."""

import numpy as np
import torch
from conftest import load_golden

# The shipped config itself is held against the authors' numbers.
from steps import losses_of

from models.build import build_maskclip_options
from models.carb import CARBCriterion, RegionRules
from models.clip_loading import clip_from_state_dict
from models.deeplabv3 import ASPPV2, TextClassifier
from models.maskclip import MaskCLIP
from models.views import LocalViewSampler, local_pseudo_mask
from utils.config import load_config

OFFICIAL = build_maskclip_options(load_config("configs/official/cityscapes.yaml"))


def ours(name: str) -> str:
    """The authors' parameter name in ASPP-V2 -> ours."""
    _, index, part, value = name.split(".")
    return f"convs.{index}.{ {'conv': 0, 'bn': 1}[part] }.{value}".replace(" ", "")


def test_golden_head_end2end() -> None:
    golden = load_golden("head_end2end.npz")
    state = load_golden("clip_small_state_dict.npz")
    clip_model = clip_from_state_dict({k: torch.from_numpy(state[k]) for k in state.files})
    text = torch.from_numpy(golden["text_embeddings"])
    maskclip = MaskCLIP(clip_model.visual, text, OFFICIAL)
    initial, final = (
        {
            ours(k.split("/")[1]): torch.from_numpy(golden[k])
            for k in golden.files
            if k.startswith(f"{name}/") and "aspp_modules" in k
        }
        for name in ("sd0", "sd1")
    )
    out_channels, in_channels = initial["convs.0.0.weight"].shape[:2]
    aspp = ASPPV2(in_channels, out_channels, (6, 12, 18, 24), 0.0)
    aspp.load_state_dict(initial)
    aspp.train()
    classifier = TextClassifier(text)
    criterion = CARBCriterion(rules=RegionRules("multiply", "nan"))
    lr, momentum, decay = (float(golden[k]) for k in ("lr", "momentum", "weight_decay"))
    optimizer = torch.optim.SGD(aspp.parameters(), lr, momentum, weight_decay=decay)
    image, labels = (torch.from_numpy(golden[k]) for k in ("img", "img_label"))
    sampler = LocalViewSampler(tuple(golden["patch_size"].tolist()), (1.0, 2.0), "batch")

    for step in range(int(golden["iters"])):
        case = {k.split("/")[1]: golden[k] for k in golden.files if k.startswith(f"{step:02d}/")}
        view = sampler.view(int(case["hpos"]), int(case["wpos"]), 1 + float(case["rand"]))
        assert view.size == tuple(case["clip_size"])
        views = [view] * len(image)
        global_mask = maskclip(image, labels, image.shape[-2:])
        local_mask = local_pseudo_mask(maskclip, image, labels, views)
        np.testing.assert_array_equal(global_mask, case["P_g"][:, 0])
        np.testing.assert_array_equal(local_mask, case["P_l"].reshape(local_mask.shape))
        logits = classifier(aspp(torch.from_numpy(case["feat"])))
        counter = int(case["counter"])
        balanced = counter > int(golden["warmup_iter"])
        boxes = [view.box for view in views]
        result = losses_of(criterion, balanced, logits, labels, global_mask, local_mask, boxes)
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        weight = criterion.weight(logits).item() if balanced else 1.0
        queue_state = criterion.state_dict()
        checks = {
            "total": result["loss"].item(),
            "acc_seg": 100 * result["mask_agreement"].item(),
            "w": weight,
            "queue_and": sum(queue_state["queue_consistent"]),
            "queue_vit": sum(queue_state["queue_inconsistent"]),
        }
        for key, value in checks.items():
            np.testing.assert_allclose(value, case[key].sum(), rtol=2e-5, atol=1e-5, err_msg=key)
        drawn = {"feat", "hpos", "wpos", "rand", "clip_size", "P_g", "P_l", "counter"}
        assert set(case) == drawn | set(checks)

    for name, value in aspp.state_dict().items():
        torch.testing.assert_close(value, final[name], rtol=1e-5, atol=1e-5)
    assert not torch.equal(initial["convs.0.0.weight"], final["convs.0.0.weight"])
