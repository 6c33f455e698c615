"""What the names of metrics tell."""

import re

_MAXIMIZED = re.compile(
    "(^|_)(acc|accuracy|auc|precision|recall|specificity|sensitivity|f1|fbeta|iou|io_u|"
    "dice|r2|mcc|psnr|ssim|bleu|rouge|map|ndcg)(_|$)"
)


def is_maximized(name: str) -> bool:
    """Whether more of a metric is better, as far as its name says."""
    name = name.lower()
    return bool(_MAXIMIZED.search(name) and not re.search("loss|error", name))
