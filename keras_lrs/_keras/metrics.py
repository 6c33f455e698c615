"""Decides whether a metric is better when it is larger, for `mode="auto"`."""

import re
from typing import Any

import keras

# Words in names of metrics that rise, or fall, when a model gets better.
_RISING = {
    *("acc", "accuracy", "ap", "auc", "auprc", "auroc", "bertscore", "bleu", "cider"),
    *("concordance", "correlation", "coverage", "dice", "elbo", "explained", "f05"),
    *("f1", "f2", "fbeta", "fscore", "gini", "hit", "hits", "iou", "jaccard", "kappa"),
    *("kendall", "likelihood", "lift", "map", "match", "mcc", "matthews", "meteor"),
    *("miou", "mrr", "ndcg", "npv", "pck", "pearson", "ppv", "precision", "psnr"),
    *("purity", "r2", "recall", "return", "returns", "reward", "rewards", "rouge"),
    *("sdr", "sensitivity", "silhouette", "similarity", "snr", "spearman"),
    *("specificity", "ssim", "success", "tn", "tnr", "tp", "tpr", "true", "win"),
    *("wins",),
}
_FALLING = {
    *("bpb", "bpc", "bpd", "brier", "cer", "cosh", "cost", "crossentropy", "deviance"),
    *("deviation", "distance", "divergence", "ece", "eer", "entropy", "err", "error"),
    *("errors", "false", "fid", "fn", "fnr", "fp", "fpr", "gap", "hausdorff", "hinge"),
    *("kid", "logcosh", "lpips", "loss", "losses", "mad", "mae", "mape", "mse", "msle"),
    *("nll", "nmse", "penalty", "perplexity", "poisson", "ppl", "regret", "residual"),
    *("rmse", "rmsle", "ter", "wer"),
}
_NEGATING = {"neg", "negative", "inverse", "minus"}


def direction(monitor: str, model: Any = None, metric: Any = None) -> str:
    """Returns `"max"` if a metric is better when it is larger, and `"min"` otherwise.

    Args:
        monitor: The name of the metric in the logs.
        model: The compiled model, whose metric of this name is asked first.
        metric: The metric itself, or a loss, if it is known.

    Raises:
        ValueError: If neither the metric nor its name tells.
    """
    found = told(monitor, model, metric)
    if found is None:
        raise ValueError(
            f"Argument `mode` must be 'max' or 'min' for {monitor!r}: neither the "
            "metric nor its name tells whether larger is better. Received: mode='auto'"
        )
    return found


def told(monitor: str, model: Any = None, metric: Any = None) -> str | None:
    """Returns the `direction`; None if neither the metric nor its name tells."""
    return _of_metric(metric) or _of_model(monitor, model) or of_name(monitor)


def _of_metric(metric):
    """Returns the direction that a Keras metric declares; None if it has none."""
    if isinstance(metric, keras.losses.Loss):
        return "min"
    said = getattr(metric, "_direction", None)
    return {"up": "max", "down": "min"}.get(str(said))


def of_name(monitor: str) -> str | None:
    """Returns the direction by the last telling word of a name; None without one."""
    # `valMeanIoU` as `val_mean_io_u`, which is also how Keras spells it.
    edges = "(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    name = re.sub(edges, "_", monitor).lower()
    name = re.sub("[^a-z0-9]+", "_", name).replace("io_u", "iou")
    words = name.removeprefix("val_").split("_")
    for index in reversed(range(len(words))):
        for word in (words[index], words[index].rstrip("0123456789")):  # `top5`
            if word in _RISING or word in _FALLING:
                # `neg_mean_squared_error` rises, and `1_minus_auc` falls.
                negated = not _NEGATING.isdisjoint(words[: min(index, 2)])
                return "max" if (word in _RISING) != negated else "min"
    return None


def is_logged(monitor: str, model: Any) -> bool:
    """Whether a compiled model has a metric that it logs under a name."""
    return bool(_of_that_name(monitor, model))


def _of_model(monitor, model):
    """Returns the direction of the metric that a model logs under a name, or None."""
    said = {_of_metric(metric) for metric in _of_that_name(monitor, model)}
    return said.pop() if len(said) == 1 else None


def _of_that_name(monitor, model):
    """Returns the metrics of a compiled model that may be logged under a name."""
    name = monitor.removeprefix("val_")
    plain = re.sub(r"_[0-9]+$", "", name)  # Keras numbers metrics with the same name.
    return [one for one, names in _logged(model) if {name, plain} & names]


def _logged(model):
    """Yields pairs of a compiled model's metric and its possible names in the logs."""
    compiled = getattr(model, "_compile_metrics", None)
    for metric in getattr(model, "metrics", ()):
        if metric is not compiled:
            yield metric, {metric.name}
    if compiled is None:
        return
    # On TensorFlow the first step builds them, but the user's arguments are known.
    config = model._compile_config.config
    given = keras.tree.flatten([config["metrics"], config["weighted_metrics"]])
    outputs = [f"{name}_" for name in compiled.output_names or ()]
    for metric in compiled.metrics or given:
        name = metric if isinstance(metric, str) else _name(metric)
        own = {name, f"weighted_{name}"}
        yield metric, {f"{output}{one}" for output in ["", *outputs] for one in own}


def _name(metric):
    """Returns Keras's name of a metric or a function."""
    return getattr(metric, "name", None) or getattr(metric, "__name__", "")
