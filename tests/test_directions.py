"""Whether a metric should rise or fall, where `mode` is `"auto"`."""

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs._keras import metrics
from keras_lrs.callbacks import ReduceOnPlateau
from keras_lrs.ensembles import Ensemble, Member

RISING = (
    *("val_accuracy", "acc", "val_cohen_kappa", "val_ndcg", "val_mrr", "val_hit_rate"),
    *("val_pearson_correlation", "val_cosine_similarity", "val_spearman", "val_tpr"),
    *("val_jaccard", "val_miou", "valMeanIoU", "val_gini", "val_fbeta_score", "auc_1"),
    *("val_f1_score", "F1Score", "r2_score", "recall@10", "top5_accuracy", "val_map50"),
    *("true_positive_rate", "true_negatives", "precision_at_recall", "log_likelihood"),
    *("explained_variance", "neg_mean_squared_error", "mean_reward", "ROC-AUC"),
)
FALLING = (
    *("loss", "val_loss", "accuracy_loss", "head_auc_loss", "val_error_rate", "mse"),
    *("accuracy_error", "word_error_rate", "val_wer", "perplexity", "brier_score"),
    *("false_positive_rate", "false_negatives", "kl_divergence", "1_minus_auc"),
    *("negative_log_likelihood", "cross_entropy", "val_accuracy_gap", "mae_3", "fid"),
)
UNKNOWN = ("val_score", "mine", "learning_rate", "val_", "seconds", "grading")


def test_the_last_word_that_is_known_decides():
    told = {name: metrics.of_name(name) for name in RISING + FALLING + UNKNOWN}
    expected = {
        **dict.fromkeys(RISING, "max"),
        **dict.fromkeys(FALLING, "min"),
        **dict.fromkeys(UNKNOWN),
    }
    assert told == expected


def test_names_say_what_keras_says_of_its_metrics():
    for kind in vars(keras.metrics).values():
        if not (isinstance(kind, type) and issubclass(kind, keras.Metric)):
            continue
        metric = made(kind)
        said = {"up": "max", "down": "min"}.get(getattr(metric, "_direction", ""))
        if said is not None:
            for spelled in (metric.name, f"val_out_{metric.name}_2"):
                assert metrics.of_name(spelled) == said, spelled


def made(kind):
    """A metric, of those that Keras makes with one or two arguments."""
    for arguments in ((), (2,), (0.5,), (2, [0])):
        try:
            return kind(*arguments)
        except (TypeError, ValueError):
            pass
    return None


class Contrary(keras.metrics.Mean):
    """A metric that says of itself what its name does not."""

    def __init__(self, name, direction):
        super().__init__(name=name)
        if direction is not None:
            self._direction = direction

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_pred)


def compiled(*given, outputs=1):
    x = keras.Input((2,))
    heads = [keras.layers.Dense(1, name=f"head_{i}")(x) for i in range(outputs)]
    model = keras.Model(x, heads if outputs > 1 else heads[0])
    found = list(given) if outputs == 1 else [list(given)] * outputs
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=found)
    return model


def fit(model, monitor, outputs=1):
    x, y = np.ones((4, 2)), np.ones((4, 1))
    plateau = ReduceOnPlateau(monitor)
    targets = y if outputs == 1 else [y] * outputs
    model.fit(x, targets, validation_split=0.5, verbose=0, callbacks=[plateau])
    return plateau.rule.mode


@pytest.mark.every_backend
@pytest.mark.parametrize("monitor", ["accuracy", "val_accuracy"])
def test_the_metric_is_asked_before_its_name(monitor):
    assert fit(compiled(Contrary("accuracy", "down")), monitor) == "min"
    assert fit(compiled(Contrary("accuracy", None)), monitor) == "max"


@pytest.mark.every_backend
def test_a_metric_of_one_of_several_outputs_is_asked():
    model = compiled(Contrary("mine", "up"), outputs=2)
    assert fit(model, "val_head_1_mine", outputs=2) == "max"


@pytest.mark.every_backend
def test_what_is_not_known_is_refused_before_training():
    model = compiled(Contrary("mine", None))
    with pytest.raises(ValueError, match=r"`mode` must be .* 'val_mine': neither"):
        fit(model, "val_mine")
    assert model.optimizer.iterations == 0


@pytest.mark.filterwarnings("ignore:The best `learning_rate` lies at the")
def test_sweeps_ask_the_model_where_the_name_says_nothing():
    pytest.importorskip("optuna").logging.set_verbosity(40)

    def sweep(monitor, *given):
        def run(model, callbacks):
            x, y = np.ones((4, 2)), np.ones((4, 1))
            return model.fit(x, y, verbose=0, callbacks=callbacks)

        return lrs.tuning.sweep(
            lambda learning_rate: compiled(*given), run, num_trials=3, monitor=monitor
        ).mode

    assert sweep("mine", Contrary("mine", "up")) == "max"
    assert sweep("loss") == "min"
    with pytest.raises(ValueError, match="neither the metric nor its name"):
        sweep("mine", Contrary("mine", None))
    with pytest.raises(ValueError, match="which the name resolves to 'max'"):
        sweep("accuracy", Contrary("accuracy", "down"))


def test_greedy_ensembles_ask_the_metric():
    model = compiled()
    ensemble = Ensemble(
        model,
        [
            Member("", i, i, True, 0.0, {}, [np.zeros((2, 1)), np.full(1, float(i))])
            for i in range(2)
        ],
    )
    x, y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")

    def best(metric):
        chosen = ensemble.greedy(x, y, metric, verbose=0)
        return float(chosen.predict(x, verbose=0)[0, 0])

    assert best(Contrary("mine", "up")) == 1.0
    assert best(Contrary("accuracy", "down")) == 0.0
    assert best(keras.losses.MeanSquaredError(name="accuracy")) == 1.0
    with pytest.raises(ValueError, match="neither the metric nor its name"):
        best(Contrary("mine", None))
