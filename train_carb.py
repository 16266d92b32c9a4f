"""Stage 2: continue training from a warm-up checkpoint with Consistency-Aware Region Balancing.

Reads --init (warmup.pt or last.pt of train_warmup.py, at step warmup_steps) and the inputs of the
warm-up; writes RUN_DIR/{config.yaml, metrics.jsonl, last.pt}. Step, learning rate and momentum
continue from the warm-up: one schedule of `steps` covers both stages.

    python train_carb.py --config configs/cityscapes.yaml \\
        --init runs/cityscapes/warmup/last.pt --run-dir runs/cityscapes/carb
    torchrun --nproc_per_node=2 train_carb.py --config ... --init ... --run-dir ...

Run the same command again to resume; --overwrite starts over.
"""

import utils.threads  # noqa: F401  # isort: skip

from datasets.fingerprint import fingerprint
from datasets.labels import load_classes
from datasets.training import training_set
from models.build import (
    build_criterion,
    build_model,
    build_network,
    build_optimizer,
    build_sampler,
    build_teacher,
)
from models.preview import build_preview
from models.training import sgd_step
from models.views import prepare_views
from utils.cli import path, training_parser
from utils.config import load_config
from utils.distributed import setup
from utils.run import Run, load_warmup
from utils.safe.errors import run_script
from utils.schedule import poly_lr


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks
    parser = training_parser(__doc__)
    parser.add_argument("--init", type=path, required=True, help="checkpoint of train_warmup.py")
    arguments = parser.parse_args(argv)
    ranks = setup(arguments.device)
    config = load_config(arguments.config, arguments.overrides).resolved(ranks.all_have_bf16)

    # --- data
    classes = load_classes(config.class_file)
    warmup = load_warmup(arguments.init, config, classes, arguments.run_dir)
    dataset = training_set(config, classes, ranks)

    # --- network, teacher, criterion, optimiser
    text = warmup["model"].get("classifier.text_embeddings")
    model = build_model(config, len(classes), text, pretrained=False).to(ranks.device)
    optimizer, criterion = build_optimizer(config, model), build_criterion(config)
    teacher, sampler = None, build_sampler(config)
    if config.views != "base":
        teacher = build_teacher(config, classes, ranks.device, arguments.trust_torchscript)
    run = Run(
        arguments,
        config,
        ranks,
        stage="carb",
        end=config.steps,
        classes=classes,
        inputs=lambda: fingerprint(
            classes, dataset, config.pseudo_masks, teacher and teacher.sha256(config.clip_model)
        ),
        parts={"model": model, "optimizer": optimizer, "criterion": criterion},
        init=warmup,
        preview=build_preview(config, classes, ranks, model, dataset, teacher, sampler),
    )
    network = build_network(model, config, ranks)

    # --- loop
    for step, batch in run.steps(dataset):
        views = prepare_views(batch, step, config, ranks, teacher, sampler)  # masks, Eq. 1
        logits = network(views.image, step)
        losses = criterion(logits, views)  # L_c + w L_i on both views, Eq. 4 to 7
        lr = poly_lr(step, config.steps, config.lr, config.min_lr, config.poly_power)
        sgd_step(losses["loss"], optimizer, lr)
        run.log(losses, batch["name"], lr)
    del network  # before the process group ends, for which its destructor would wait for ever
    run.close()


if __name__ == "__main__":
    run_script(main)
