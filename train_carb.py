"""Stage 2: go on from a warm-up checkpoint with Consistency-Aware Region Balancing.

Reads --init (warmup.pt or last.pt of train_warmup.py, at step warmup_steps) and what the warm-up
read; writes RUN_DIR/{config.yaml, metrics.jsonl, last.pt}. Step, learning rate and momentum go on
where the warm-up stopped: one schedule of `steps` over both stages.

    python train_carb.py --config configs/cityscapes.yaml \\
        --init runs/cityscapes/warmup/last.pt --run-dir runs/cityscapes/carb
    torchrun --nproc_per_node=2 train_carb.py --config ... --init ... --run-dir ...

The same command again goes on where it stopped; --overwrite starts anew.
"""

import utils.threads  # noqa: F401  # isort: skip

from datasets import open_dataset
from datasets.doctor.label_check import check_some_masks, check_trainable
from datasets.files import read_mask
from datasets.fingerprint import fingerprint
from datasets.labels import load_classes
from datasets.loader import training_loader
from datasets.split_labels import labels_of_split
from datasets.training import TrainingSet, pseudo_mask_files
from datasets.transforms import TrainTransform
from models.build import (
    build_criterion,
    build_model,
    build_network,
    build_optimizer,
    build_sampler,
    build_teacher,
)
from models.training import sgd_step
from models.views import prepare_views
from utils.cli import path, training_parser
from utils.config import load_config
from utils.distributed import cleanup, setup
from utils.resume import checkpoint_names, load_warmup, restore, save
from utils.run_folder import open_run
from utils.runlog import RunLog, describe
from utils.safe.errors import run_script
from utils.safe.stop import Stop
from utils.schedule import poly_lr


def main(argv: list[str]) -> None:
    # --- arguments and configuration
    parser = training_parser(__doc__)
    parser.add_argument("--init", type=path, required=True, help="checkpoint of train_warmup.py")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.overrides)
    end = config.steps

    # --- device, ranks
    ranks = setup(arguments.device)
    classes = load_classes(config.class_file)
    warmup = load_warmup(arguments.init, config, classes, arguments.run_dir)

    # --- data
    source, split = open_dataset(config.dataset, config.data_root), config.train_split
    images = source.images(split)
    image_labels = labels_of_split(source, split, config.image_labels, classes, images)
    check_trainable(classes, image_labels)
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
    text = warmup["model"].get("classifier.text_embeddings")
    model = build_model(config, len(classes), text, pretrained=False).to(ranks.device)
    teacher = None
    if config.views != "base":
        bf16 = config.precision == "bf16"
        teacher = build_teacher(config, classes, ranks.device, arguments.trust_torchscript, bf16)
    sampler = build_sampler(config)
    criterion = build_criterion(config)
    optimizer = build_optimizer(config, model)
    inputs = None
    if ranks.is_main:
        clip = None if teacher is None else teacher.sha256(config.clip_model)
        inputs = fingerprint(classes, images, image_labels, masks, config.pseudo_masks, clip)
    run_dir = open_run(arguments.run_dir, config, arguments.overwrite, ranks)
    step, state = restore(
        run_dir, "carb", end, ranks, model, optimizer, criterion, arguments.init, inputs
    )
    network = build_network(model, config, ranks)

    # --- loop
    loader = training_loader(dataset, config, ranks, step, end)
    about = describe(config, dataset, model)
    log = RunLog(
        run_dir, config, ranks, step, end, "CARB", arguments.tensorboard, state, about, inputs
    )
    with Stop(ranks) as stop:
        for batch in loader:
            lr = poly_lr(step, config.steps, config.lr, config.min_lr, config.poly_power)
            views = prepare_views(batch, step, config, ranks, teacher, sampler)
            logits = network(views.image, step)
            losses = criterion(logits, views)
            sgd_step(losses["loss"], optimizer, lr)
            step += 1
            log.add(step, lr, losses, batch["name"])
            due = step % config.checkpoint_every == 0 or step == end
            if due:
                log.flush(step, lr)
            if stop.agreed() or due:
                names = checkpoint_names(step, due and arguments.keep_checkpoints)
                save(run_dir, names, "carb", step, log, classes, model, optimizer, criterion)
            if due and log.board:
                log.board.pictures(step, model, dataset, ranks, teacher, sampler)
            if stop.number:
                break
    log.close()
    if ranks.is_main:
        print(f"CARB: step {step} of {end} done, {run_dir / 'last.pt'}")
    del network  # before the process group, for which its destructor would wait for ever
    cleanup()
    stop.leave()


if __name__ == "__main__":
    run_script(main)
