"""Stage 1: train the segmentation net on CLIP's pseudo-masks of global and local views.

Reads the images, their image-level labels and, for views base and local, the masks of
gen_clip_masks.py; writes RUN_DIR/{config.yaml, metrics.jsonl, warmup.pt, last.pt}. With carb: true
it stops after warmup_steps and train_carb.py goes on; with carb: false it takes all steps (rows
Base, Local and Dual of Table 1).

    python train_warmup.py --config configs/cityscapes.yaml --run-dir runs/cityscapes/warmup
    torchrun --nproc_per_node=2 train_warmup.py --config ... --run-dir ...

The same command again goes on where it stopped; --overwrite starts anew.
"""

import utils.threads  # noqa: F401  # isort: skip
import torch

from datasets.fingerprint import fingerprint
from datasets.labels import load_classes
from datasets.plausible import implausible
from datasets.training import training_set
from models.carb import CARBCriterion
from models.deeplabv3 import build_model
from models.maskclip import build_maskclip, maskclip_sha256
from models.preview import build_preview
from models.text import get_text_embeddings
from models.views import LocalViewSampler
from utils.cli import training_parser
from utils.config import load_config
from utils.distributed import setup
from utils.errors import run_script, warn
from utils.run import Run
from utils.schedule import poly_lr
from utils.seed import WEIGHTS, derive
from utils.training import prepare_views, train_one_step, wrap


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks, seed
    arguments = training_parser(__doc__).parse_args(argv)
    config = load_config(arguments.config, arguments.overrides)
    ranks = setup(arguments.device)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    dataset = training_set(config, classes, ranks)
    for text in implausible(config, len(dataset)):
        warn(text)

    # --- model, criterion, optimiser
    text = None
    if config.classifier == "text":
        text = get_text_embeddings(config, classes, trust=arguments.trust)
    model = build_model(config, len(classes), text).to(ranks.device)
    maskclip = None
    if config.views != "base":
        bf16 = config.precision == "bf16"
        maskclip = build_maskclip(config, classes, ranks.device, arguments.trust, bf16)
    sampler = LocalViewSampler.from_config(config)
    criterion = CARBCriterion.from_config(config)
    optimizer = torch.optim.SGD(
        model.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay
    )
    run = Run(
        arguments,
        config,
        ranks,
        stage="warmup",
        end=config.warmup_steps if config.carb else config.steps,
        classes=classes,
        inputs=lambda: fingerprint(
            classes, dataset, config.pseudo_masks, maskclip_sha256(config, maskclip)
        ),
        parts={"model": model, "optimizer": optimizer, "criterion": criterion},
        preview=build_preview(config, classes, ranks, model, dataset, maskclip, sampler),
    )
    network = wrap(model, config, ranks)

    # --- loop
    for step, batch in run.steps(dataset):
        lr = poly_lr(step, config.steps, config.lr, config.min_lr, config.power)
        views = prepare_views(batch, step, config, ranks, maskclip, sampler)
        losses = train_one_step(
            network, criterion, optimizer, views, step, lr, config, ranks, balanced=False
        )
        run.log(losses, batch["name"], lr)
    del network  # before the process group, for which its destructor would wait for ever
    run.close()


if __name__ == "__main__":
    run_script(main)
