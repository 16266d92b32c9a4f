"""The fully supervised upper bound of Tables 2-4: the same network and schedule on ground truth.

The only training script that opens ground truth. Writes RUN_DIR/{config.yaml, metrics.jsonl,
last.pt}. The `classifier` key chooses frozen text embeddings or an ordinary convolution.

    python train_supervised.py --config configs/cityscapes.yaml --run-dir runs/cityscapes/supervised
    torchrun --nproc_per_node=2 train_supervised.py --config ... --run-dir ...

The same command again goes on where it stopped; --overwrite starts anew.
"""

import utils.threads  # noqa: F401  # isort: skip
import torch

from datasets import open_dataset
from datasets.fingerprint import fingerprint
from datasets.label_check import check_some_masks, check_trainable
from datasets.labels import load_classes
from datasets.training import TrainingSet, build_transform
from datasets.transforms import normalize
from models.carb import segmentation_loss, upsample
from models.deeplabv3 import build_model
from models.pixel_losses import pixel_losses
from models.preview import build_preview
from models.text import get_text_embeddings
from utils.cli import training_parser
from utils.config import load_config
from utils.distributed import on_main, setup
from utils.errors import InputError, run_script
from utils.run import Run
from utils.schedule import poly_lr
from utils.seed import WEIGHTS, derive
from utils.training import compute_logits, descend, wrap


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
            "supervision needs; prepare_data.py --check says where it is looked for"
        )
    check_trainable(classes)
    on_main(ranks, lambda: check_some_masks(masks, source.read_ground_truth, classes))
    transform, read = build_transform(config), source.read_ground_truth
    dataset = TrainingSet(images, None, len(classes), transform, masks, read, config.image_cache)

    # --- model, optimiser, resume
    text = None
    if config.classifier == "text":
        text = get_text_embeddings(config, classes, trust=arguments.trust)
    model = build_model(config, len(classes), text).to(ranks.device)
    optimizer = torch.optim.SGD(
        model.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay
    )
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
    network = wrap(model, config, ranks)

    # --- loop
    for step, batch in run.steps(dataset):
        lr = poly_lr(step, config.steps, config.lr, config.min_lr, config.power)
        image, valid, mask = (
            batch[key].to(ranks.device, non_blocking=True)
            for key in ("image", "valid", "pseudo_mask")
        )
        logits = compute_logits(network, normalize(image, "imagenet", valid), step, config, ranks)
        losses, _ = pixel_losses(upsample(logits, mask.shape[-2:]), mask)
        loss = segmentation_loss(losses, mask, config.empty_region, config.sync)
        descend(loss, optimizer, lr)
        run.log({"loss": loss}, batch["name"], lr)
    del network  # before the process group, for which its destructor would wait for ever
    run.close()


if __name__ == "__main__":
    run_script(main)
