"""Terms of the data sets and weights that a network is made from, and where they stand.

A summary for a model card, not legal advice: the terms at the address decide.
"""

from typing import NamedTuple


class Terms(NamedTuple):
    """Name of the thing, address of its terms, and what they say in a sentence."""

    name: str
    address: str
    summary: str


DATA = {  # by the config's `dataset`; a folder's terms are known to its owner only
    "cityscapes": Terms(
        "Cityscapes",
        "https://www.cityscapes-dataset.com/license/",
        "for non-commercial purposes only",
    ),
    "camvid": Terms(
        "CamVid",
        "https://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        "published for research, without a stated licence: ask its authors about other uses",
    ),
    "wilddash2": Terms(
        "WildDash 2",
        "https://wilddash.cc",
        "for non-commercial purposes; its terms are accepted on registration",
    ),
}
CLIP = Terms(
    "CLIP",
    "https://github.com/openai/CLIP/blob/main/LICENSE",
    "MIT; its model card (model-card.md there) calls untested deployment out of scope",
)
IMAGENET = Terms(
    "ImageNet weights of the backbone",
    "https://github.com/pytorch/vision#pre-trained-model-license",
    "may carry terms derived from ImageNet, whose images are for non-commercial research",
)
