"""Terms of the data sets and weights that a network is made from: where they stand.

Not legal advice: the terms at the address decide. They are summed up only where their text could be
read: OpenAI's LICENSE and model-card.md, torchvision's README.
"""

from typing import Any, NamedTuple

from utils.markdown_text import code


class Terms(NamedTuple):
    """Name of the thing, official address of its terms, and what they say, where that was read."""

    name: str
    address: str
    summary: str = ""

    def __str__(self) -> str:
        if not self.summary:
            return f"{self.name}: read the terms at <{self.address}>."
        return f"{self.name}: {self.summary} (<{self.address}>)."


DATA = {  # by the config's `dataset`; a folder's terms are known to its owner only
    "cityscapes": Terms("Cityscapes", "https://www.cityscapes-dataset.com/license/"),
    "camvid": Terms("CamVid", "https://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/"),
    "wilddash2": Terms("WildDash 2", "https://wilddash.cc"),
}
CLIP = Terms(
    "OpenAI's CLIP",
    "https://github.com/openai/CLIP/blob/main/LICENSE",
    "MIT; its model card (model-card.md there) calls every deployed use out of scope",
)
IMAGENET = Terms(
    "ImageNet weights of the backbone, by torchvision",
    "https://github.com/pytorch/vision#pre-trained-model-license",
    "may have terms of their own, derived from the data that they were trained on",
)


def licences(config: dict[str, Any], stage: Any) -> str:
    """Section of a model card: the terms of all that the weights were made from.

    config: `Config.to_dict`; stage: that of the checkpoint.
    """
    terms = DATA.get(config["dataset"])
    lines = ["**Code:** Apache-2.0.", f"**Data:** {terms or 'yours: fill in.'}"]
    if config["classifier"] == "text" or stage in ("warmup", "carb", "official"):
        clip, whose = str(config["clip_model"]), "your own CLIP: fill in."
        if clip.startswith(("ViT-", "RN")) or stage == "official":
            whose = str(CLIP)
        elif clip.startswith("demo/weights/"):
            whose = "the demo's CLIP, which has only seen drawn streets: a dry run, not for use."
        lines.append(f"**Text embeddings and masks:** {whose}")
    weights = config["backbone_weights"]
    if weights == "imagenet" or stage == "official":
        lines.append(f"**Start of the training:** {IMAGENET}")
    elif weights is not None:
        lines.append(f"**Start of the training:** {code(weights)}: fill in its terms.")
    shown = "".join(f"\n- {line}" for line in lines)
    return f"## Licences\n\nThe weights may fall under terms of what they were made from:\n{shown}"
