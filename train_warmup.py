"""Stage 1: train the segmentation network on CLIP's pseudo-masks of global and local views.

Reads images, image-level labels and, for views base and local, the masks of gen_clip_masks.py;
writes RUN_DIR/{config.yaml, metrics.jsonl, warmup.pt, last.pt}. carb: true stops at warmup_steps,
for train_carb.py; carb: false trains all steps (rows Base, Local and Dual of Table 1).

    python train_warmup.py --config configs/cityscapes.yaml --run-dir runs/cityscapes/warmup
    torchrun --nproc_per_node=2 train_warmup.py --config ... --run-dir ...

Run the same command again to resume; --overwrite starts over.
"""

import utils.threads  # noqa: F401  # isort: skip
import torch

from datasets.doctor.plausible import implausible
from datasets.fingerprint import fingerprint
from datasets.labels import load_classes
from datasets.training import training_set
from models.build import (
    build_model,
    build_network,
    build_optimizer,
    build_region_rules,
    build_sampler,
    build_teacher,
    build_text,
)
from models.carb import warmup_losses
from models.preview import build_preview
from models.training import sgd_step
from models.views import prepare_views
from utils.cli import training_parser
from utils.config import load_config
from utils.distributed import setup
from utils.run import Run
from utils.safe.errors import run_script, warn
from utils.schedule import poly_lr
from utils.seed import WEIGHTS, derive


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks, seed
    arguments = training_parser(__doc__).parse_args(argv)
    ranks = setup(arguments.device)
    config = load_config(arguments.config, arguments.overrides).resolved(ranks.all_have_bf16)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    dataset = training_set(config, classes, ranks)
    for text in implausible(config, len(dataset)):
        warn(text)

    # --- network, teacher, optimiser
    text = build_text(config, classes, arguments.trust_torchscript)
    model = build_model(config, len(classes), text).to(ranks.device)
    optimizer, rules = build_optimizer(config, model), build_region_rules(config)
    teacher, sampler = None, build_sampler(config)
    if config.views != "base":
        teacher = build_teacher(config, classes, ranks.device, arguments.trust_torchscript)
    run = Run(
        arguments,
        config,
        ranks,
        stage="warmup",
        end=config.warmup_steps if config.carb else config.steps,
        classes=classes,
        inputs=lambda: fingerprint(
            classes, dataset, config.pseudo_masks, teacher and teacher.sha256(config.clip_model)
        ),
        parts={"model": model, "optimizer": optimizer},
        preview=build_preview(config, classes, ranks, model, dataset, teacher, sampler),
    )
    network = build_network(model, config, ranks)

    # --- loop
    for step, batch in run.steps(dataset):
        views = prepare_views(batch, step, config, ranks, teacher, sampler)  # masks, Eq. 1
        logits = network(views.image, step)
        losses = warmup_losses(logits, views, rules)  # L_g + L_l, Eq. 2 and 3
        lr = poly_lr(step, config.steps, config.lr, config.min_lr, config.poly_power)
        sgd_step(losses["loss"], optimizer, lr)
        run.log(losses, batch["name"], lr)
    del network  # before the process group ends, for which its destructor would wait for ever
    run.close()


if __name__ == "__main__":
    run_script(main)
