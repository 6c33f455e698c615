"""Tells by its name whether a metric is better when it is larger."""

import re

_MAXIMIZED = re.compile(
    "(^|_)(acc|accuracy|auc|precision|recall|specificity|sensitivity|f1|fbeta|iou|io_u|"
    "dice|r2|mcc|psnr|ssim|bleu|rouge|map|ndcg)(_|$)"
)


def mode_of(monitor: str) -> str:
    """Returns `"max"` for accuracies and the like, `"min"` for everything else."""
    name = monitor.lower()
    maximized = _MAXIMIZED.search(name) and not re.search("loss|error", name)
    return "max" if maximized else "min"
