"""Sweeps on functions whose best point is known, and in Keras."""

import contextlib
import math
import shutil
import sqlite3
import sys
import time
import warnings

import keras
import numpy as np
import optuna
import pytest
import sqlalchemy

from keras_lrs import tuning
from keras_lrs.tuning import database
from keras_lrs.tuning.sweep import Sweep, Trial
from tests import processes
from tests.tuning import sharing

INTERRUPTED = "The sweep was interrupted"


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def impatient(monkeypatch):
    """Processes count as killed after a second."""
    monkeypatch.setattr(database, "HEARTBEAT", 1)
    monkeypatch.setattr(database, "GRACE", 1)
    monkeypatch.setattr(database, "POLL", 0.1)


def itself(learning_rate):
    return learning_rate


def parabola(minimum):
    """A metric with its best value at a rate, on the log scale."""
    return lambda model: (math.log10(model) - math.log10(minimum)) ** 2


def search(minimum, low, high, **arguments):
    return tuning.sweep(
        itself, parabola(minimum), learning_rate=(low, high), **arguments
    )


@contextlib.contextmanager
def opened(path):
    """Optuna's own storage in a file."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    yield storage
    storage.remove_session()
    storage.engine.dispose()


def rates(result):
    return [trial.parameters["learning_rate"] for trial in result.trials]


def test_a_grid_is_even_on_the_log_scale():
    result = search(0.01, 1e-4, 1.0, num_trials=5)
    np.testing.assert_allclose(rates(result), [1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert rates(result)[0] == 1e-4
    assert rates(result)[-1] == 1.0
    assert result.best_parameters["learning_rate"] == pytest.approx(0.01)
    assert result.best.value == pytest.approx(0.0, abs=1e-20)
    assert result.at_edge == {}
    assert result.is_complete


def test_the_default_is_a_grid_over_four_decades():
    result = tuning.sweep(itself, parabola(0.01))
    np.testing.assert_allclose(rates(result), np.geomspace(1e-4, 1.0, 9))


def test_random_rates_are_log_uniform():
    result = search(0.01, 1e-4, 1.0, search="random", num_trials=400)
    values = np.sort(np.log10(rates(result)))
    uniform = -4.0 + 4.0 * (np.arange(400) + 0.5) / 400
    # Kolmogorov and Smirnov's distance, beyond its 99.9 % point of 1.95 / sqrt(400).
    assert np.abs(values - uniform).max() / 4.0 < 1.95 / 20.0
    assert result.best_parameters["learning_rate"] == pytest.approx(0.01, rel=0.1)


def test_the_seed_says_which_random_points():
    def points(seed):
        return rates(search(0.01, 1e-4, 1.0, search="random", seed=seed))

    assert points(1) == points(1)
    assert points(1) != points(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The best of some may lie at an edge.
        assert points(None) != points(None)


def test_several_parameters_are_searched_at_random():
    def fit(model, weight_decay):
        return parabola(0.01)(model) + parabola(1e-3)(weight_decay)

    result = tuning.sweep(
        itself,
        fit,
        learning_rate=(1e-4, 1.0),
        weight_decay=(1e-5, 1e-1),
        num_trials=60,
    )
    best = result.best_parameters
    assert abs(math.log10(best["learning_rate"] / 0.01)) < 0.5
    assert abs(math.log10(best["weight_decay"] / 1e-3)) < 0.5
    assert len({trial.parameters["weight_decay"] for trial in result.trials}) == 60
    assert list(result.ranges) == ["learning_rate", "weight_decay"]


def test_the_larger_accuracy_is_better():
    def fit(model):
        return 1.0 - parabola(0.01)(model)

    result = tuning.sweep(itself, fit, monitor="val_accuracy")
    assert result.mode == "max"
    assert result.best_parameters["learning_rate"] == pytest.approx(0.01)
    assert tuning.sweep(itself, parabola(0.01), mode="min", monitor="auc").mode == "min"


@pytest.mark.parametrize(
    ("minimum", "end", "advice"),
    [(10.0, "high", "Search further above"), (1e-7, "low", "Search further below")],
)
def test_a_best_rate_at_the_edge_is_reported(minimum, end, advice):
    with pytest.warns(UserWarning, match=f"lies at the {end} edge") as record:
        result = search(minimum, 1e-4, 1e-2, num_trials=5)
    assert len(record) == 1
    assert record[0].filename == __file__
    assert result.at_edge == {"learning_rate": end}
    assert advice in str(result)


@pytest.mark.parametrize("kind", ["grid", "random"])
@pytest.mark.parametrize("minimum", [3.0, 1e-8])
def test_a_range_extends_itself_until_it_holds_the_optimum(kind, minimum):
    result = search(minimum, 1e-4, 1e-2, search=kind, num_trials=5, extend=True)
    assert result.at_edge == {}
    found = math.log10(result.best_parameters["learning_rate"])
    assert abs(found - math.log10(minimum)) < 0.5
    low, high = result.ranges["learning_rate"]
    assert low < minimum < high
    assert low <= min(rates(result))
    assert max(rates(result)) <= high
    assert len(set(rates(result))) == len(rates(result))
    assert len(result.studies) > 1


def test_an_extended_grid_stays_as_dense_as_it_was():
    result = search(3.0, 1e-4, 1e-2, num_trials=5, extend=True)
    steps = np.diff(np.log10(np.sort(rates(result))))
    np.testing.assert_allclose(steps, 0.5, rtol=1e-9)
    # Half as many points, 3, at a time: 1e-2 -> 10**-0.5 -> 10 -> and no further.
    assert len(rates(result)) == 5 + 3 + 3
    assert result.ranges["learning_rate"] == pytest.approx((1e-4, 10.0))


def test_extensions_come_to_an_end():
    with pytest.warns(UserWarning, match="lies at the high edge"):
        result = tuning.sweep(
            itself, lambda model: -model, learning_rate=(0.1, 1.0), num_trials=4,
            extend=True,
        )  # fmt: skip
    assert len(rates(result)) == 4 + 5 * 2


def test_only_the_parameters_at_an_edge_are_extended():
    def fit(model, weight_decay):
        return parabola(0.01)(model) + 100.0 * weight_decay

    with pytest.warns(UserWarning, match="`weight_decay` lies at the low edge"):
        result = tuning.sweep(
            itself,
            fit,
            learning_rate=(1e-4, 1.0),
            weight_decay=(1e-2, 1.0),
            num_trials=30,
        )
    assert result.at_edge == {"weight_decay": "low"}
    result = tuning.sweep(
        itself,
        fit,
        learning_rate=(1e-4, 1.0),
        weight_decay=(1e-2, 1.0),
        num_trials=30,
        extend=True,
    )
    assert result.ranges["learning_rate"] == (1e-4, 1.0)
    assert result.ranges["weight_decay"][0] < 1e-2


def test_a_grid_of_several_parameters_has_every_combination():
    tried = []

    def fit(model, decay):
        tried.append((model, decay))
        return parabola(0.01)(model) + parabola(0.1)(decay)

    result = tuning.sweep(
        itself, fit, search="grid", num_trials=9,
        learning_rate=(1e-3, 0.1), decay=(1e-2, 1.0),
    )  # fmt: skip
    every = [(a, b) for a in (1e-3, 1e-2, 0.1) for b in (1e-2, 0.1, 1.0)]
    np.testing.assert_allclose(sorted(tried), every)
    assert result.at_edge == {}
    assert result.best_parameters == pytest.approx(
        {"learning_rate": 0.01, "decay": 0.1}
    )


def test_a_grid_is_extended_where_the_best_point_lies_at_an_edge(tmp_path):
    def fit(model, decay):
        return parabola(1.0)(model) + parabola(0.1)(decay)

    result = tuning.sweep(
        itself, fit, search="grid", num_trials=9, extend=True,
        learning_rate=(1e-3, 0.1), decay=(1e-2, 1.0), storage=tmp_path / "sweep.db",
    )  # fmt: skip
    # Two rates more, 1 and 10, with each of the three decays; no decay more.
    points = [tuple(trial.parameters.values()) for trial in result.trials]
    every = [(10.0**a, 10.0**b) for a in range(-3, 2) for b in range(-2, 1)]
    np.testing.assert_allclose(sorted(points), every)
    assert result.at_edge == {}
    assert result.best_parameters == pytest.approx({"learning_rate": 1.0, "decay": 0.1})
    # At both edges at once it goes on around the corner.
    corner = tuning.sweep(
        itself, lambda model, decay: parabola(1.0)(model) + parabola(10.0)(decay),
        search="grid", num_trials=9, extend=True,
        learning_rate=(1e-3, 0.1), decay=(1e-2, 1.0),
    )  # fmt: skip
    assert corner.at_edge == {}
    assert corner.best_parameters == pytest.approx(
        {"learning_rate": 1.0, "decay": 10.0}
    )
    assert len(corner.trials) == len({str(t.parameters) for t in corner.trials})


def test_a_failing_trial_is_recorded_and_the_others_go_on():
    def fit(model):
        if model > 0.5:
            raise MemoryError("too large")
        return parabola(0.01)(model)

    result = tuning.sweep(itself, fit, num_trials=5)
    assert [trial.state for trial in result.trials] == ["complete"] * 4 + ["failed"]
    assert result.trials[-1].error == "MemoryError: too large"
    assert result.trials[-1].value is None
    assert result.best_parameters["learning_rate"] == pytest.approx(0.01)
    assert "failed" in str(result)


def test_when_all_fail_the_warning_says_why():
    def fit(model):
        raise OSError("no data")

    with pytest.warns(UserWarning, match="No trial is complete: all are failed") as one:
        result = tuning.sweep(itself, fit, num_trials=2)
    assert "OSError: no data" in str(one[0].message)
    assert result.best is None
    assert result.at_edge == {}
    with pytest.raises(RuntimeError, match="OSError: no data"):
        _ = result.best_parameters


def test_divergence_counts_as_worst_and_not_as_failure():
    def fit(model):
        return math.nan if model > 0.05 else -model

    result = tuning.sweep(itself, fit, num_trials=9)
    states = [trial.state for trial in result.trials]
    assert states == ["complete"] * 6 + ["diverged"] * 3
    assert result.trials[-1].value is None
    # The best is the largest that did not diverge, and what lies beyond is known.
    assert result.best_parameters["learning_rate"] == pytest.approx(10**-1.5)
    assert result.at_edge == {}


def test_a_range_where_all_diverge_is_extended_downwards():
    def fit(model):
        return math.inf if model > 0.05 else parabola(0.003)(model)

    result = tuning.sweep(
        itself, fit, learning_rate=(1.0, 100.0), num_trials=5, extend=True
    )
    assert abs(math.log10(result.best_parameters["learning_rate"] / 0.003)) <= 0.25
    with pytest.warns(UserWarning, match="diverged|edge") as record:
        result = tuning.sweep(itself, fit, learning_rate=(1.0, 100.0), num_trials=5)
    told = " ".join(str(one.message) for one in record)
    assert "No trial is complete: all are diverged" in told
    assert "lies at the low edge" in told
    assert result.at_edge == {"learning_rate": "low"}


# --- Storage --------------------------------------------------------------------------


def test_the_same_call_goes_on_where_ctrl_c_stopped_it(tmp_path):
    path, tried = tmp_path / "sweep.db", []

    def fit(model):
        tried.append(model)
        if len(tried) == 3:
            raise KeyboardInterrupt
        return parabola(0.01)(model)

    with pytest.warns(UserWarning, match=f"{INTERRUPTED}: 2 of 9") as record:
        result = tuning.sweep(itself, fit, storage=path)
    assert len(record) == 1
    assert not result.is_complete
    assert [t.state for t in result.trials] == ["complete"] * 2 + ["open"] * 7
    assert result.best_parameters == {"learning_rate": rates(result)[1]}

    result = tuning.sweep(itself, fit, storage=path)
    assert result.is_complete
    np.testing.assert_allclose(rates(result), np.geomspace(1e-4, 1.0, 9))
    assert len(tried) == 10
    assert sorted(tried[3:] + tried[:2]) == sorted(rates(result))
    # A third call has nothing to do and gives the same.
    assert tuning.sweep(itself, fit, storage=path).trials == result.trials
    assert len(tried) == 10


def test_ctrl_c_in_memory_gives_what_is_done():
    def fit(model):
        if model > 0.02:
            raise KeyboardInterrupt
        return parabola(0.01)(model)

    with pytest.warns(UserWarning, match=INTERRUPTED):
        result = tuning.sweep(itself, fit)
    assert result.best_parameters["learning_rate"] == pytest.approx(0.01)


def test_extensions_are_resumed_too(tmp_path):
    path, tried = tmp_path / "sweep.db", []

    def fit(model):
        tried.append(model)
        if len(tried) == 7:
            raise KeyboardInterrupt
        return parabola(3.0)(model)

    arguments = {"learning_rate": (1e-4, 1e-2), "num_trials": 5, "extend": True}
    with pytest.warns(UserWarning, match=INTERRUPTED):
        tuning.sweep(itself, fit, storage=path, **arguments)
    result = tuning.sweep(itself, fit, storage=path, **arguments)
    assert rates(result) == rates(search(3.0, 1e-4, 1e-2, num_trials=5, extend=True))
    assert len(tried) == len(rates(result)) + 1


def test_a_study_may_be_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    search(0.01, 1e-4, 1.0, storage="~/sweep.db")
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.db"]
    with pytest.raises(ValueError, match="`storage` must be a path, which is not emp"):
        search(0.01, 1e-4, 1.0, storage="")


@pytest.mark.parametrize(
    "name", ["a?b.db", "a#b.db", "a%20b.db", "a{b}.db", "{SCHEMA_VERSION}.db", "ä b.db"]
)
def test_a_study_is_in_the_file_of_exactly_this_name(tmp_path, name):
    if "?" in name and sqlalchemy.__version__ < "2.1":
        with pytest.raises(ValueError, match=r"`\?`, or SQLAlchemy must be 2\.1"):
            database.opened(optuna, tmp_path / name)
        assert list(tmp_path.iterdir()) == []
        return
    storage = database.opened(optuna, tmp_path / name)
    storage.remove_session()
    storage.engine.dispose()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_study_is_where_a_symbolic_link_leads(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    storage = database.opened(optuna, tmp_path / "link" / ".." / "sweep.db")
    storage.remove_session()
    storage.engine.dispose()
    assert (tmp_path / "a" / "sweep.db").exists()


@pytest.mark.only("torch")
def test_a_study_of_another_sweep_is_refused(tmp_path):
    path = tmp_path / "sweep.db"
    search(0.01, 1e-4, 1.0, storage=path)
    with pytest.raises(ValueError, match=r"`name` must be a new name.* ranges=.*1e-05"):
        search(0.01, 1e-5, 1.0, storage=path)
    with pytest.raises(ValueError, match=r"has num_trials=9\. Received: num_trials=5"):
        search(0.01, 1e-4, 1.0, storage=path, num_trials=5)
    other = search(0.01, 1e-5, 1.0, storage=path, name="wider")
    assert len(other.trials) == 9


@pytest.mark.only("torch")
@pytest.mark.parametrize("kind", ["url", "object"])
def test_any_storage_of_optuna_will_do(tmp_path, kind):
    storage = f"sqlite:///{tmp_path / 'sweep.db'}"
    if kind == "object":
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal"))
        )
    first = search(0.01, 1e-4, 1.0, storage=storage)
    assert search(0.01, 1e-4, 1.0, storage=storage).trials == first.trials
    (study,) = first.studies
    assert study.study_name == "sweep"
    assert study.best_value == first.best.value
    if kind == "url":  # That opened it again.
        study._storage._backend.engine.dispose()


@pytest.mark.only("torch")
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal of POSIX")
@pytest.mark.parametrize("thread_lives", [True, False])
def test_a_killed_sweep_goes_on_with_the_point_it_was_killed_at(
    tmp_path, impatient, thread_lives
):
    path = tmp_path / "sweep.db"
    process = processes.context.Process(
        target=sharing.be_killed, args=(path, 1, thread_lives), daemon=True
    )
    process.start()
    process.join(timeout=processes.HANGS)
    assert process.exitcode < 0
    tried = []

    def fit(model):
        tried.append(model)
        return sharing.loss(model)

    result = tuning.sweep(itself, fit, **sharing.arguments(path))
    assert [trial.state for trial in result.trials] == ["complete"] * sharing.NUM_TRIALS
    assert sorted(tried) == rates(result)[2:]


@pytest.mark.only("torch")
def test_two_processes_share_a_study_without_repeating_a_trial(tmp_path):
    context = processes.context
    barrier, queue = context.Barrier(2), context.Queue()
    arguments = (tmp_path / "sweep.db", barrier, queue)
    both = [
        context.Process(target=sharing.take_part, args=arguments, daemon=True)
        for _ in range(2)
    ]
    for process in both:
        process.start()
    (tried, seen), (others, seen_by_other) = (
        queue.get(timeout=processes.HANGS) for _ in both
    )
    for process in both:
        process.join(timeout=processes.HANGS)
    assert tried
    assert others
    expected = np.geomspace(*sharing.RANGE, sharing.NUM_TRIALS)
    np.testing.assert_allclose(sorted(tried + others), expected)
    # Each waits for the other, and has the whole result.
    assert seen == seen_by_other
    np.testing.assert_allclose([one["learning_rate"] for one in seen], expected)


@pytest.mark.only("torch")
def test_a_busy_database_does_not_end_the_signs_of_life(
    tmp_path, impatient, monkeypatch
):
    path = tmp_path / "sweep.db"
    monkeypatch.setattr(database, "PATIENCE", 0.1)

    def last_sign(database):
        ((sign,),) = database.execute(
            "SELECT heartbeat FROM trial_heartbeats NATURAL JOIN trials "
            "WHERE state = 'RUNNING'"
        )
        return sign

    def fit(model):
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(3 * database.HEARTBEAT)  # A sign is due, and cannot be written.
            before = last_sign(other)
            other.execute("ROLLBACK")
            late = time.monotonic() + processes.HANGS
            while last_sign(other) == before:
                assert time.monotonic() < late
                time.sleep(0.1)
        return parabola(0.01)(model)

    # That a thread raises would be an error of the test.
    result = tuning.sweep(itself, fit, storage=path, num_trials=3)
    assert [trial.state for trial in result.trials] == ["complete"] * 3


def test_a_point_that_was_given_to_another_does_not_end_the_sweep(tmp_path):
    path, tried = tmp_path / "sweep.db", []

    def fit(model):
        tried.append(model)
        if len(tried) == 2:  # As another process does, when it seems dead.
            with opened(path) as storage:
                study = optuna.load_study(study_name="sweep", storage=storage)
                running = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
                (trial,) = running
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                study.enqueue_trial(trial.params, trial.user_attrs)
        return parabola(0.01)(model)

    result = tuning.sweep(itself, fit, storage=path, num_trials=4)
    assert [trial.state for trial in result.trials] == ["complete"] * 4
    assert len(tried) == 5


@pytest.mark.only("torch")
def test_a_full_disk_ends_a_sweep_and_is_not_an_error_of_the_trial(
    tmp_path, impatient, monkeypatch
):
    path, tried = tmp_path / "sweep.db", []

    def full(*arguments):
        """There is no room for another row, but others can still change."""
        raise optuna.exceptions.StorageInternalError from OSError("disk is full")

    def fit(model, callbacks):
        tried.append(model)
        # A user's `fit` may catch errors, but this one is not that of the training.
        with monkeypatch.context() as patch, contextlib.suppress(Exception):
            if len(tried) == 2:
                method = "set_trial_intermediate_value"
                patch.setattr(optuna.storages.RDBStorage, method, full)
            callbacks[0].on_epoch_end(0, {"val_loss": 1.0})
        return parabola(0.01)(model)

    match = r"storage.* failed: disk is full.*sweep\.db"
    assert_second_point_is_tried_again(fit, path, tried, match)


def assert_second_point_is_tried_again(fit, storage, tried, match):
    with pytest.raises(OSError, match=match):
        tuning.sweep(itself, fit, storage=storage, num_trials=3)
    result = tuning.sweep(itself, fit, storage=storage, num_trials=3)
    assert [trial.state for trial in result.trials] == ["complete"] * 3
    assert sorted(tried) == sorted([*rates(result), tried[1]])


@pytest.mark.only("torch")
def test_a_database_that_is_removed_during_a_sweep_is_named(tmp_path):
    path = tmp_path / "folder" / "sweep.db"
    path.parent.mkdir()

    def fit(model):
        shutil.rmtree(path.parent)
        return parabola(0.01)(model)

    with pytest.raises(OSError, match=r"storage of the sweep has failed.*sweep\.db"):
        tuning.sweep(itself, fit, storage=path, num_trials=3)


class Unreliable(optuna.storages.InMemoryStorage):
    """A storage without heartbeats, which fails once."""

    fails = False

    def set_trial_intermediate_value(self, *arguments):
        if self.fails:
            self.fails = False
            raise ConnectionError("no network")
        super().set_trial_intermediate_value(*arguments)


def test_a_point_is_put_back_at_once_in_a_storage_without_heartbeats():
    storage, tried = Unreliable(), []

    def fit(model, callbacks):
        tried.append(model)
        storage.fails = len(tried) == 2
        callbacks[0].on_epoch_end(0, {"val_loss": 1.0})
        return parabola(0.01)(model)

    match = r"no network.*Unreliable"
    assert_second_point_is_tried_again(fit, storage, tried, match)


@pytest.mark.only("torch")
def test_who_was_killed_between_taking_and_beginning_loses_the_point(
    tmp_path, impatient
):
    path = tmp_path / "sweep.db"

    def interrupted(model):
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match=INTERRUPTED):
        tuning.sweep(itself, interrupted, storage=path, num_trials=3)
    with opened(path) as storage:
        optuna.load_study(study_name="sweep", storage=storage).ask()
    result = search(0.01, 1e-4, 1.0, storage=path, num_trials=3)
    assert [trial.state for trial in result.trials] == ["complete"] * 3


@pytest.mark.only("torch")
def test_who_was_killed_while_filling_a_study_is_stood_in_for(tmp_path, impatient):
    path = tmp_path / "sweep.db"
    point = {"learning_rate": 1e-4}
    with opened(path) as storage:
        study = optuna.create_study(study_name="sweep", storage=storage)
        study.enqueue_trial(point, {"point": 0, "parameters": point})
    result = search(0.01, 1e-4, 1.0, storage=path, num_trials=3)
    np.testing.assert_allclose(rates(result), [1e-4, 1e-2, 1.0])


# --- Training -------------------------------------------------------------------------

X = np.linspace(-1.0, 1.0, 32, dtype="float32")[:, None]


def build_model(learning_rate):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(learning_rate), "mse")
    return model


def fit(model, callbacks):
    return model.fit(
        X, 3.0 * X + 1.0, batch_size=8, epochs=6, callbacks=callbacks, verbose=0
    )


def test_models_are_trained_and_what_diverges_is_stopped():
    result = tuning.sweep(
        build_model, fit, learning_rate=(1e-3, 1e3), num_trials=7, monitor="loss"
    )
    assert result.trials[0].state == "complete"
    assert result.trials[0].epochs == 6
    assert result.trials[-1].state == "diverged"
    model = build_model(1e-3)
    expected = fit(model, []).history["loss"][-1]
    assert result.trials[0].value == pytest.approx(expected, rel=1e-5)
    assert result.trials[0].seconds > 0.0


def test_bad_trials_are_pruned():
    stopped = []

    class Spy(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            stopped[-1] = epoch + 1

    def spied(model, callbacks):
        stopped.append(0)
        return fit(model, [*callbacks, Spy()])

    def from_the_best(learning_rate):
        return build_model(1e-6 / learning_rate)

    arguments = {"learning_rate": (1e-5, 0.1), "num_trials": 5, "monitor": "loss"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The best are at the edge.
        result, halved, none = (
            tuning.sweep(from_the_best, spied, pruner=pruner, **arguments)
            for pruner in (
                "median",
                "halving",
                optuna.pruners.ThresholdPruner(upper=-1.0),
            )
        )
    states = [trial.state for trial in result.trials]
    assert states == ["complete"] * 3 + ["pruned"] * 2
    assert stopped[:5] == [6, 6, 6, 1, 1]
    assert [trial.epochs for trial in result.trials] == stopped[:5]
    assert "pruned" in {trial.state for trial in halved.trials}
    assert {trial.state for trial in none.trials} == {"pruned"}


def test_a_metric_that_is_not_logged_is_refused_at_once():
    built = []

    def counted(learning_rate):
        built.append(learning_rate)
        return build_model(learning_rate)

    with pytest.raises(ValueError, match=r"`monitor` .* It logs loss\. .*'val_loss'"):
        tuning.sweep(counted, fit)
    assert len(built) == 1
    with pytest.raises(ValueError, match="It logs nothing"):
        tuning.sweep(itself, lambda model: None)


def test_a_history_will_do_where_callbacks_are_not_handed_on():
    result = tuning.sweep(
        build_model, lambda model: fit(model, []), monitor="loss", num_trials=3,
        learning_rate=(1e-3, 10.0),
    )  # fmt: skip
    assert result.trials[0].state == "complete"
    assert result.trials[0].epochs == 6


# --- What users see -------------------------------------------------------------------


def test_the_table_has_a_row_for_each_trial():
    result = search(0.01, 1e-4, 1.0, num_trials=5)
    header, *rows = str(result).splitlines()
    assert header.split() == ["learning_rate", "val_loss", "state", "epochs", "seconds"]
    assert [row.split()[:3] for row in rows] == [
        ["0.0001", "4", "complete"],
        ["0.001", "1", "complete"],
        ["0.01", "0", "best"],
        ["0.1", "1", "complete"],
        ["1", "4", "complete"],
    ]


def test_the_picture_has_a_panel_for_each_parameter(tmp_path):
    def fit(model, weight_decay):
        if weight_decay > 0.05:
            return math.nan
        return parabola(0.01)(model)

    result = tuning.sweep(
        itself,
        fit,
        learning_rate=(1e-4, 1.0),
        weight_decay=(1e-5, 1e-1),
        num_trials=30,
    )
    picture = tmp_path / "sweep.png"
    figure = result.plot(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [axes.get_xlabel() for axes in figure.axes] == list(result.ranges)
    for axes in figure.axes:
        assert axes.get_xscale() == "log"
        drawn = [len(line.get_xdata()) for line in axes.lines]
        lost = sum(trial.state == "diverged" for trial in result.trials)
        assert lost > 0
        assert drawn == [30 - lost, 0, lost, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": (0.0, 1.0)}, "`learning_rate` must have 0 < lower end"),
        ({"learning_rate": (1.0, 0.1)}, "`learning_rate` must have 0 < lower end"),
        ({"learning_rate": (0.1, 0.1)}, "`learning_rate` must have 0 < lower end"),
        ({"learning_rate": (0.1, math.inf)}, "`learning_rate` must be finite"),
        ({"learning_rate": (0.1, 0.2, 0.3)}, "`learning_rate` must be a lower"),
        ({"num_trials": 2**40}, "`num_trials` must be <= 10000"),
        ({"num_trials": 0}, "`num_trials` must be > 0"),
        ({"num_trials": 1}, "`num_trials` must be > 1 for a grid"),
        ({"search": "bayes"}, "`search` must be 'grid', 'random' or None"),
        ({"build_model": int}, "`build_model` must be a function with a known"),
        ({"mode": "up"}, "`mode` must be one of"),
        ({"pruner": "mean"}, "`pruner` must be 'median', 'halving'"),
        ({"seed": -1}, "`seed` must be >= 0"),
        (
            {"learning_rate": (0.1, 1.0), "momentum": (0.1, 0.9)},
            "`momentum` must be an argument of `build_model`",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tuning.sweep(**{"build_model": itself, "fit": parabola(0.01)} | arguments)


@pytest.mark.parametrize("storage", ["", ".", "missing/sweep.db", "x\0/y", "sql://x"])
def test_a_storage_that_cannot_be_opened_is_refused(tmp_path, monkeypatch, storage):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="`storage` must be a"):
        search(0.01, 1e-4, 1.0, storage=storage)


def test_a_link_that_leads_to_itself_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("link")
    for path, message in (("link", "no symbolic link that"), ("link/a", "a file in a")):
        with pytest.raises(ValueError, match=f"`storage` must be {message}"):
            database.opened(optuna, tmp_path / path)


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path, impatient):
    path = tmp_path / "weights.h5"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(ValueError, match="`storage` must be a database that can be"):
        search(0.01, 1e-4, 1.0, storage=path)
    assert path.read_bytes() == b"not a database" * 1000


def test_a_grid_of_several_parameters_is_a_power():
    for number in (2, 6, 8):
        with pytest.raises(ValueError, match="such as 4, 9, 16") as refused:
            tuning.sweep(
                itself, lambda model, decay: 0.0, search="grid", num_trials=number,
                learning_rate=(0.1, 1.0), decay=(0.1, 1.0),
            )  # fmt: skip
        assert str(refused.value).endswith(f"num_trials={number}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"build_model": 3}, "`build_model` must be a function"),
        ({"build_model": lambda rate: None}, "`build_model` must be a function that"),
        ({"fit": lambda model, data: None}, "`fit` must be a function that can"),
        ({"fit": lambda: None}, "`fit` must be a function that can"),
        ({"learning_rate": 0.1}, r"`learning_rate` must be a lower and an upper end"),
        (
            {"objective": "val_accuracy"},
            r"`objective` must be a lower and an upper end, as in "
            r"`learning_rate=\(1e-4, 1.0\)`; `sweep` has no option of that name. "
            "Received: objective='val_accuracy'",
        ),
        ({"n_trials": 9}, "`sweep` has no option of that name. Received: n_trials=9"),
        ({"monitor": None}, "`monitor` must be a name"),
        ({"storage": 3}, "`storage` must be a path"),
    ],
)
def test_wrong_types_are_refused(arguments, message):
    with pytest.raises(TypeError, match=message):
        tuning.sweep(**{"build_model": itself, "fit": parabola(0.01)} | arguments)


def test_the_result_is_shown_in_a_line():
    def trial(rate, value, state):
        return Trial({"learning_rate": rate}, value, state, 1, 0.5, None)

    ranges = {"learning_rate": (1e-3, 10.0)}
    trials = [trial(0.001, None, "open"), trial(10.0, None, "diverged")]
    result = Sweep(ranges, "val_loss", "min", trials, [])
    searched = "<Sweep: learning_rate from 0.001 to 10, "
    assert repr(result) == f"{searched}1 of 2 trials done, none complete>"
    trials += [trial(0.1, 0.25, "complete"), trial(1.0, 0.5, "complete")]
    assert repr(result) == (
        f"{searched}3 of 4 trials done, best: learning_rate=0.1, val_loss=0.25>"
    )


@pytest.mark.only("torch")
def test_importing_the_package_does_not_import_optuna():
    import subprocess

    program = "import sys, keras_lrs; print('optuna' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_without_optuna_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r'pip install "keras-lrs\[tune\]"'):
        tuning.sweep(itself, parabola(0.01))
