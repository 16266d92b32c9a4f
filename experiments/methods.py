"""The methods of baselines/ that a suite can run, and what each of them makes.

"network": trains a network, whose last.pt eval.py reads; "masks": writes a folder of pseudo-masks,
with --out, --split and --score.
"""

from pathlib import Path

MASKS = ("cam", "psa", "seam", "one_stage", "amn", "clims", "clip_es", "clustering", "support_net")
MASKS += ("prior",)
METHODS = {"points": "network", "sec": "network"} | dict.fromkeys(MASKS, "masks")
# Also "supervised", a stage of its own.
TRAINING_FREE = ("clip_es", "prior")  # the same for all seeds, as CLIP's masks
PREDICTS = ("one_stage",)  # its masks of another split are predictions, made without labels
# The paper's names in Tables 2 to 4; "clustering" is after the abstract of the last.
PAPERS_NAMES = {"cam": "CAM", "sec": "SEC", "psa": "AffinityNet", "seam": "SEAM"}
PAPERS_NAMES |= {"one_stage": "1-Stage", "amn": "AMN", "clims": "CLIMS", "clip_es": "CLIP-ES"}
PAPERS_NAMES |= {"clustering": "Wang, Ma, and You"}
READS_CLIP = ("clims", "clip_es")
SECOND_STAGE = {"views": "base"}  # of a training on a method's masks, else as Base
# Methods that read the maps of another row (--cams): of the training split, of the scored one too.
READS_CAMS = {"psa": ("train", "scored"), "amn": ("train",), "sec": ("train",)}
READS_CAMS |= {"clustering": ("train",)}
NEEDS_CAMS = ("amn", "sec")  # the others do without them, too
WITHOUT_MAPS = ("clustering",)  # it has labels of regions
SAVE_CAMS = "--save-cams"  # of a row whose maps another one reads


def cams_option(method: str, folder: Path, train: str, scored: str | None) -> list[str]:
    """--cams of a method that reads the maps of the run in `folder`: of train, and of the split
    whose masks it makes where it reads those too."""
    names = [train] + [scored] * bool(scored and "scored" in READS_CAMS[method])
    return ["--cams", *(str(folder / f"masks_{name}") for name in dict.fromkeys(names))]
