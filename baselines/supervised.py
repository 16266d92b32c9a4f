"""The fully supervised upper bound of Tables 2-4: the same network and schedule on ground truth.

The only training script that opens ground truth. Writes RUN_DIR/{config.yaml, metrics.jsonl,
last.pt}. The `classifier` key chooses frozen text embeddings or an ordinary convolution.

    python -m baselines.supervised --config configs/cityscapes.yaml --run-dir runs/supervised
    torchrun --nproc_per_node=2 -m baselines.supervised --config ... --run-dir ...

Run the same command again to resume; --overwrite starts over.
"""

import utils.threads  # noqa: F401  # isort: skip
import dataclasses

import torch

from datasets import open_dataset
from datasets.doctor.label_check import check_some_masks, check_trainable
from datasets.fingerprint import fingerprint
from datasets.labels import load_classes
from datasets.training import TrainingSet, build_transform
from models.build import build_model, build_network, build_optimizer, build_region_rules, build_text
from models.carb import segmentation_loss, upsample
from models.kernels.pixel_losses import pixel_losses
from models.preview import build_preview
from models.training import sgd_step
from models.views import prepare_views
from utils.cli import training_parser
from utils.config import load_config
from utils.distributed import on_main, setup
from utils.run import Run
from utils.safe.errors import InputError, run_script
from utils.schedule import poly_lr
from utils.seed import WEIGHTS, derive


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks, seed
    arguments = training_parser(__doc__).parse_args(argv)
    config = load_config(arguments.config, arguments.overrides)
    ranks = setup(arguments.device)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    source = open_dataset(config.dataset, config.data_root)
    images, masks = source.images(config.train_split), source.ground_truth(config.train_split)
    if not masks:
        raise InputError(
            f"{config.data_root} has no ground truth for split '{config.train_split}', which full "
            "supervision needs; prepare_data.py --check shows where it is expected"
        )
    check_trainable(classes)
    on_main(ranks, lambda: check_some_masks(masks, source.read_ground_truth, classes))
    transform, read = build_transform(config), source.read_ground_truth
    dataset = TrainingSet(images, None, len(classes), transform, masks, read, config.image_cache)

    # --- network, optimiser
    text = build_text(config, classes, arguments.trust_torchscript)
    model = build_model(config, len(classes), text).to(ranks.device)
    optimizer, rules = build_optimizer(config, model), build_region_rules(config)
    run = Run(
        arguments,
        config,
        ranks,
        stage="supervised",
        end=config.steps,
        classes=classes,
        inputs=lambda: fingerprint(classes, dataset),
        parts={"model": model, "optimizer": optimizer},
        preview=build_preview(config, classes, ranks, model, dataset),
    )
    network = build_network(model, config, ranks)

    # --- loop
    base = dataclasses.replace(config, views="base")  # the masks come from files
    for step, batch in run.steps(dataset):
        views = prepare_views(batch, step, base, ranks, None, None)
        logits, mask = network(views.image, step), views.global_mask
        losses, _ = pixel_losses(upsample(logits, mask.shape[-2:]), mask)
        loss = segmentation_loss(losses, mask, rules)
        lr = poly_lr(step, config.steps, config.lr, config.min_lr, config.poly_power)
        sgd_step(loss, optimizer, lr)
        run.log({"loss": loss}, batch["name"], lr)
    del network  # before the process group: its destructor would wait for ever
    run.close()


if __name__ == "__main__":
    run_script(main)
