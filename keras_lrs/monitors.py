"""Whether a metric is better when it is larger, told by its name."""

import re

_MAXIMIZED = re.compile(
    "(^|_)(acc|accuracy|auc|precision|recall|specificity|sensitivity|f1|fbeta|iou|io_u|"
    "dice|r2|mcc|psnr|ssim|bleu|rouge|map|ndcg)(_|$)"
)


def mode_of(monitor: str) -> str:
    """`"max"` for accuracies and their like, `"min"` for losses and all else."""
    name = monitor.lower()
    maximized = _MAXIMIZED.search(name) and not re.search("loss|error", name)
    return "max" if maximized else "min"
