"""The learning rate of each step."""


def poly_lr(step: int, steps: int, lr: float, min_lr: float, power: float) -> float:
    """(lr - min_lr) (1 - step/steps)^power + min_lr for step 0 .. steps-1, over both training stages."""
    return (lr - min_lr) * (1 - step / steps) ** power + min_lr
