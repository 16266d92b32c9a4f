"""Make CLIP's pseudo-masks of a split, at the size of the images (Eq. 1 and Fig. 3 of the paper).

Reads the images and their image-level labels; writes OUT/<image id>.png (class ids, paletted; 255
where an image has no label), OUT/meta.json with what the masks were made from, and OUT/cost.json
with time and memory; with ``templates: experts`` also OUT/experts.json, each class's templates.

    python gen_clip_masks.py --config configs/cityscapes.yaml --score
    torchrun --nproc_per_node=2 gen_clip_masks.py --config ...      # more machines: docs/scaling.md

Fig. 3 (b): --ratio 2, (c): --grid 2x2, (d): both. Run the same command again to resume, on any
number of processes. --score and --save-vis: as `eval.py --masks OUT`, --save-vis without scores.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
from functools import partial
from pathlib import Path

from datasets import open_dataset
from datasets.doctor.label_check import check_trainable
from datasets.fingerprint import data_of_masks
from datasets.ids import require
from datasets.labels import load_classes, multi_hot
from datasets.loader import image_loader
from datasets.mask_scores import score_masks
from datasets.mask_writer import COST, check_no_inputs, mask_writer, open_mask_folder
from datasets.split_labels import labels_of_split
from datasets.training import EvaluationSet
from datasets.transforms import normalize
from models.build import build_mask_record, build_maskclip_options, build_teacher
from models.confidence import add_confidence, confidence_from
from models.inference import add_views, load_with_windows, multi_view_scores
from models.maskclip import check_images, check_views
from models.template_experts import ExpertsFile, load_experts
from models.text import build_text_embeddings
from utils.cli import add_share, add_trust, check_share, parser, path
from utils.cost import measured
from utils.distributed import autocast, cleanup, on_main, setup
from utils.overlap import ahead
from utils.progress import progress
from utils.safe.errors import run_script


def main(argv: list[str]) -> None:
    # --- arguments and configuration
    arguments = parse_arguments(argv)
    check_share(arguments, "overwrite", "score", "save_vis")
    config = load_with_windows(arguments)
    check_views(build_maskclip_options(config, stored=True), arguments.ratio, arguments.grid)
    sure = confidence_from(arguments, config.stored_teacher)
    split = arguments.split or config.train_split
    out = Path(arguments.out or config.masks_of(split))
    vis = Path(f"{out}_vis") if arguments.save_vis else None
    ranks = setup(arguments.device)
    device, trust = ranks.device, arguments.trust_torchscript

    # --- data
    classes = load_classes(config.class_file)
    dataset = open_dataset(config.dataset, config.data_root)
    images, ground_truth = dataset.images(split), dataset.ground_truth(split)
    check_no_inputs(out, images, [*images.values(), *ground_truth.values()], sure.write)
    labels = labels_of_split(dataset, split, config.image_labels, classes, images)
    check_trainable(classes, labels if split == config.train_split else None)
    if arguments.score:
        require(images, ground_truth, "ground truth", "leave out --score")

    # --- everything that decides the masks, and the images without one
    text = build_text_embeddings(config, classes, trust=trust)
    rules, precision, made_from = config.arithmetic, "bf16" if arguments.bf16 else "fp32", {}
    if ranks.is_main:
        made_from = data_of_masks(config.dataset, split, classes.names, images, labels)
        made_from |= build_mask_record(config, classes, text) | {"precision": precision}
        made_from |= {key: getattr(arguments, key) for key in ("ratio", "grid", "flip")} | sure.used
    names, how = list(images)[arguments.share], (arguments.overwrite, ranks, arguments.shards)
    todo = open_mask_folder(out, names, made_from, *how, arguments.share)
    if ranks.is_main and todo:
        print(config.teacher_of_masks())

    # --- masks, one by one, each at the original size of its image
    if todo:
        teacher = build_teacher(config, classes, device, trust, arguments.bf16, stored=True)
        data = EvaluationSet({name: images[name] for name in todo}, config.image_size)
        on_main(ranks, lambda: check_images(teacher.options, data, arguments.ratio))
        if config.stored_teacher.templates == "experts":
            file = ExpertsFile(out, made_from, arguments.overwrite)
            teacher, experts = load_experts(
                config, classes, teacher, file, images, labels, ranks, trust, precision
            )
            made_from = made_from | {"experts": experts}
            open_mask_folder(out, names, made_from, *how, arguments.share)
        loader = image_loader(data, config.num_workers, ranks)
        samples = progress(ahead(loader), "masks", ranks, len(loader))
        views = {"scales": arguments.ratio, "flip": arguments.flip, "grid": arguments.grid}
        meta = {"made_from": made_from, "config": config.to_dict()}
        with mask_writer(out, todo, classes.palette, meta, *how) as write:
            for sample in measured(samples, out / COST, ranks):
                image = normalize(sample["image"][None].to(device), rules.clip_normalization)
                present = multi_hot(labels[sample["name"]], len(classes))[None].to(device)
                score = partial(teacher.upsampled_scores, image_labels=present)
                with autocast(device, precision):
                    scores = multi_view_scores(score, image, sample["size"], **views)
                scores = teacher.refine(scores, image, present)
                write(sample["name"], *sure.mask(teacher, scores, present, rules.label_filter))
    if ranks.is_main:
        print(f"{out}: {len(names)} masks, {len(todo)} of them new")
    if arguments.score or vis:
        scores = out / "score.json" if arguments.score else None
        score_masks(out, dataset, split, classes, ranks, scores, vis)
    cleanup()


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = parser(__doc__)
    add = result.add_argument
    add("--out", type=path, help="default: pseudo_masks; with --split <pseudo_masks>_<split>")
    add("--split", help="default: train_split of the config")
    add("--shards", action="store_true", help="masks in tars: OUT/masks-000000.tar, ...")
    add_views(result)
    add_confidence(result, "OUT_confidence/<image id>.png")
    add_share(result)
    add("--bf16", action="store_true", help="run CLIP in bfloat16: faster, masks differ slightly")
    add("--save-vis", action="store_true", help="overlays on the images and a legend, to OUT_vis")
    add("--score", action="store_true", help="mIoU against ground truth, also to score.json")
    add("--overwrite", action="store_true", help="make all masks again")
    add_trust(result)
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
