"""The learning rate of each step."""


def poly_lr(step: int, steps: int, lr: float, min_lr: float, power: float) -> float:
    """(lr - min_lr) (1 - step/steps)^power + min_lr; step 0 .. steps-1 counts both stages."""
    return (lr - min_lr) * (1 - step / steps) ** power + min_lr
