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
import torch

from datasets.fingerprint import fingerprint
from datasets.labels import load_classes
from datasets.training import training_set
from models.carb import CARBCriterion
from models.deeplabv3 import build_model
from models.maskclip import build_maskclip, maskclip_sha256
from models.preview import build_preview
from models.views import LocalViewSampler
from utils.cli import path, training_parser
from utils.config import load_config
from utils.distributed import setup
from utils.errors import run_script
from utils.run import Run, load_warmup
from utils.schedule import poly_lr
from utils.training import prepare_views, train_one_step, wrap


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks
    parser = training_parser(__doc__)
    parser.add_argument("--init", type=path, required=True, help="checkpoint of train_warmup.py")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.overrides)
    ranks = setup(arguments.device)

    # --- data
    classes = load_classes(config.class_file)
    warmup = load_warmup(arguments.init, config, classes, arguments.run_dir)
    dataset = training_set(config, classes, ranks)

    # --- model, criterion, optimiser
    text = warmup["model"].get("classifier.text_embeddings")
    model = build_model(config, len(classes), text, pretrained=False).to(ranks.device)
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
        stage="carb",
        end=config.steps,
        classes=classes,
        inputs=lambda: fingerprint(
            classes, dataset, config.pseudo_masks, maskclip_sha256(config, maskclip)
        ),
        parts={"model": model, "optimizer": optimizer, "criterion": criterion},
        init=arguments.init,
        preview=build_preview(config, classes, ranks, model, dataset, maskclip, sampler),
    )
    network = wrap(model, config, ranks)

    # --- loop
    for step, batch in run.steps(dataset):
        lr = poly_lr(step, config.steps, config.lr, config.min_lr, config.power)
        views = prepare_views(batch, step, config, ranks, maskclip, sampler)
        losses = train_one_step(
            network, criterion, optimizer, views, step, lr, config, ranks, balanced=True
        )
        run.log(losses, batch["name"], lr)
    del network  # before the process group, for which its destructor would wait for ever
    run.close()


if __name__ == "__main__":
    run_script(main)
