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

from datasets import open_dataset
from datasets.doctor.label_check import check_some_masks, check_trainable
from datasets.doctor.plausible import implausible
from datasets.files import read_mask
from datasets.fingerprint import fingerprint
from datasets.labels import load_classes
from datasets.loader import training_loader
from datasets.split_labels import labels_of_split
from datasets.training import TrainingSet, pseudo_mask_files
from datasets.transforms import TrainTransform
from models.build import (
    build_model,
    build_network,
    build_optimizer,
    build_region_rules,
    build_sampler,
    build_teacher,
)
from models.carb import warmup_losses
from models.text import get_text_embeddings
from models.training import sgd_step
from models.views import prepare_views
from utils.cli import training_parser
from utils.config import load_config
from utils.distributed import cleanup, setup
from utils.resume import checkpoint_names, restore, save
from utils.run_folder import open_run
from utils.runlog import RunLog, describe
from utils.safe.errors import run_script, warn
from utils.safe.stop import Stop
from utils.schedule import poly_lr
from utils.seed import WEIGHTS, derive


def main(argv: list[str]) -> None:
    # --- arguments and configuration
    arguments = training_parser(__doc__).parse_args(argv)
    config = load_config(arguments.config, arguments.overrides)
    end = config.warmup_steps if config.carb else config.steps

    # --- device, ranks, seed
    ranks = setup(arguments.device)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    source, split = open_dataset(config.dataset, config.data_root), config.train_split
    images = source.images(split)
    image_labels = labels_of_split(source, split, config.image_labels, classes, images)
    check_trainable(classes, image_labels)
    for text in implausible(config, len(images)):
        warn(text)
    masks = None
    if config.views != "dual":
        masks = pseudo_mask_files(config.pseudo_masks, images, classes.names, split)
        if ranks.is_main:
            check_some_masks(masks, read_mask, classes, image_labels)
    transform = TrainTransform.from_config(config)
    dataset = TrainingSet(
        images, image_labels, len(classes), transform, masks, cache=config.image_cache
    )

    # --- model, criterion, optimiser, resume
    text = None
    if config.classifier == "text":
        text = get_text_embeddings(config, classes, trust=arguments.trust_torchscript)
    model = build_model(config, len(classes), text).to(ranks.device)
    teacher = None
    if config.views != "base":
        bf16 = config.precision == "bf16"
        teacher = build_teacher(config, classes, ranks.device, arguments.trust_torchscript, bf16)
    sampler = build_sampler(config)
    rules = build_region_rules(config)
    optimizer = build_optimizer(config, model)
    inputs = None
    if ranks.is_main:
        clip = None if teacher is None else teacher.sha256(config.clip_model)
        inputs = fingerprint(classes, images, image_labels, masks, config.pseudo_masks, clip)
    run_dir = open_run(arguments.run_dir, config, arguments.overwrite, ranks)
    step, state = restore(run_dir, "warmup", end, ranks, model, optimizer, inputs=inputs)
    network = build_network(model, config, ranks)

    # --- loop
    loader = training_loader(dataset, config, ranks, step, end)
    about = describe(config, dataset, model)
    log = RunLog(
        run_dir, config, ranks, step, end, "warm-up", arguments.tensorboard, state, about, inputs
    )
    with Stop(ranks) as stop:
        for batch in loader:
            lr = poly_lr(step, config.steps, config.lr, config.min_lr, config.poly_power)
            views = prepare_views(batch, step, config, ranks, teacher, sampler)
            logits = network(views.image, step)
            losses = warmup_losses(logits, views, rules)
            sgd_step(losses["loss"], optimizer, lr)
            step += 1
            log.add(step, lr, losses, batch["name"])
            due = step % config.checkpoint_every == 0 or step in (config.warmup_steps, end)
            if due:
                log.flush(step, lr)
            if stop.agreed() or due:
                names = checkpoint_names(step, due and arguments.keep_checkpoints)
                # warmup.pt comes first: a run killed in between writes both again.
                names = ["warmup.pt"] * (step == config.warmup_steps) + names
                save(run_dir, names, "warmup", step, log, classes, model, optimizer)
            if due and log.board:
                log.board.pictures(step, model, dataset, ranks, teacher, sampler)
            if stop.number:
                break
    log.close()
    if ranks.is_main:
        print(f"warm-up: step {step} of {end} done, {run_dir / 'last.pt'}")
    del network  # before the process group, for which its destructor would wait for ever
    cleanup()
    stop.leave()


if __name__ == "__main__":
    run_script(main)
