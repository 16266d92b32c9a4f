"""The fully supervised upper bound of Tables 2-4: the same network and schedule on ground truth.

The only training script that opens ground truth. Writes RUN_DIR/{config.yaml, metrics.jsonl,
last.pt}. The `classifier` key chooses frozen text embeddings or an ordinary convolution.

    python -m baselines.supervised --config configs/cityscapes.yaml \\
        --run-dir runs/cityscapes/supervised
    torchrun --nproc_per_node=2 -m baselines.supervised --config ... --run-dir ...

The same command again goes on where it stopped; --overwrite starts anew.
"""

import utils.threads  # noqa: F401  # isort: skip
import torch

from datasets import open_dataset
from datasets.doctor.label_check import check_some_masks, check_trainable
from datasets.fingerprint import fingerprint
from datasets.labels import load_classes
from datasets.loader import training_loader
from datasets.training import TrainingSet
from datasets.transforms import TrainTransform, normalize
from models.build import build_model, build_network, build_optimizer, build_region_rules
from models.carb import segmentation_loss, upsample
from models.kernels.pixel_losses import pixel_losses
from models.text import get_text_embeddings
from models.training import sgd_step
from utils.cli import training_parser
from utils.config import load_config
from utils.distributed import cleanup, setup
from utils.resume import checkpoint_names, restore, save
from utils.run_folder import open_run
from utils.runlog import RunLog, describe
from utils.safe.errors import InputError, run_script
from utils.safe.stop import Stop
from utils.schedule import poly_lr
from utils.seed import WEIGHTS, derive


def main(argv: list[str]) -> None:
    # --- arguments and configuration
    arguments = training_parser(__doc__).parse_args(argv)
    config = load_config(arguments.config, arguments.overrides)
    end = config.steps

    # --- device, ranks, seed
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
    if ranks.is_main:
        check_some_masks(masks, source.read_ground_truth, classes)
    labels = dict.fromkeys(images, ())  # image-level labels play no part here
    dataset = TrainingSet(
        images,
        labels,
        len(classes),
        TrainTransform.from_config(config),
        masks,
        source.read_ground_truth,
        config.image_cache,
    )

    # --- model, optimiser, resume
    text = None
    if config.classifier == "text":
        text = get_text_embeddings(config, classes, trust=arguments.trust_torchscript)
    model = build_model(config, len(classes), text).to(ranks.device)
    optimizer, rules = build_optimizer(config, model), build_region_rules(config)
    inputs = fingerprint(classes, images, masks=masks) if ranks.is_main else None
    run_dir = open_run(arguments.run_dir, config, arguments.overwrite, ranks)
    step, state = restore(run_dir, "supervised", end, ranks, model, optimizer, inputs=inputs)
    network = build_network(model, config, ranks)

    # --- loop
    loader = training_loader(dataset, config, ranks, step, end)
    about = describe(config, dataset, model, supervised=True)
    log = RunLog(
        run_dir, config, ranks, step, end, "supervised", arguments.tensorboard, state, about, inputs
    )
    with Stop(ranks) as stop:
        for batch in loader:
            lr = poly_lr(step, config.steps, config.lr, config.min_lr, config.poly_power)
            image, valid, mask = (
                batch[key].to(ranks.device, non_blocking=True)
                for key in ("image", "valid", "pseudo_mask")
            )
            logits = network(normalize(image, "imagenet", valid), step)
            losses, _ = pixel_losses(upsample(logits, mask.shape[-2:]), mask)
            loss = segmentation_loss(losses, mask, rules)
            sgd_step(loss, optimizer, lr)
            step += 1
            log.add(step, lr, {"loss": loss.detach()}, batch["name"])
            due = step % config.checkpoint_every == 0 or step == end
            if due:
                log.flush(step, lr)
            if stop.agreed() or due:
                names = checkpoint_names(step, due and arguments.keep_checkpoints)
                save(run_dir, names, "supervised", step, log, classes, model, optimizer)
            if due and log.board:
                log.board.pictures(step, model, dataset, ranks)
            if stop.number:
                break
    log.close()
    if ranks.is_main:
        print(f"supervised: step {step} of {end} done, {run_dir / 'last.pt'}")
    del network  # before the process group, for which its destructor would wait for ever
    cleanup()
    stop.leave()


if __name__ == "__main__":
    run_script(main)
