"""The methods of baselines/ that a suite can run, and what each of them makes.

"network": trains a network, whose last.pt eval.py reads; "masks": trains a network of its own and
writes a folder of pseudo-masks, with --out, --split and --score.
"""

METHODS = {"points": "network", "support_net": "masks"}  # and "supervised", a stage of its own
SECOND_STAGE = {"views": "base", "classifier": "conv"}  # of Base training on a method's masks
