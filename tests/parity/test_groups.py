"""Groups of parameters of torch and optax, and the layer decay of timm."""

import importlib
import pathlib
import re
import sys
import types

import keras
import numpy as np
import pytest

import keras_lrs as lrs
from keras_lrs import PerVariable
from keras_lrs.callbacks import HyperparameterScheduler
from tests.callbacks import grouped, references
from tests.callbacks.recording import Record

S = lrs.schedules
EPOCHS, STEPS = 5, 50
# Keras's, but for beta_2: of 1 - 0.999 a float32 keeps four digits.
ADAM = {"betas": (0.9, 0.95), "eps": 1e-7}


def trained_by_torch(make, factors, values):
    """The weights of groups of torch after each step, in float64.

    Args:
        make: Makes an optimizer of a list of groups.
        factors: Functions of the step that multiply the groups' rates.
        values: The arguments of each group, by name.
    """
    torch = pytest.importorskip("torch")
    weights = {
        name: torch.zeros((3, 1), dtype=torch.float64, requires_grad=True)
        for name in grouped.NAMES
    }
    groups = [{"params": [weights[name]], **values[name]} for name in grouped.NAMES]
    optimizer = make(torch.optim, groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
    found = []
    for step in range(STEPS):
        for w in weights.values():
            gradient = references.gradient(w.detach().numpy(), step)
            w.grad = torch.from_numpy(gradient)
        optimizer.step()
        scheduler.step()
        found.append({name: w.detach().numpy().copy() for name, w in weights.items()})
    return found


def assert_same(optimizer, callback, expected):
    """Asserts that each group has the weights of the peer after each step."""
    model = grouped.linear_models(optimizer)
    record = Record()
    grouped.fit(model, [callback, record], EPOCHS)
    assert len(record.weights) == len(expected) == STEPS
    for step, found in enumerate(record.weights):
        for name, one in zip(grouped.NAMES, found, strict=True):
            np.testing.assert_allclose(
                one, expected[step][name], 0, 1e-6, err_msg=f"{name}, step {step}"
            )


def one(step):
    return 1.0


def halving(step):
    return 0.5 ** (step // 10)


def falling(step):
    return 1.0 - step / STEPS


def test_sgd_whose_groups_have_rates_and_momenta():
    values = {
        "early": {"lr": 0.005},
        "late": {"lr": 0.02, "momentum": 0.5},
        "head": {"lr": 0.05, "momentum": 0.7},
    }
    expected = trained_by_torch(
        lambda optim, groups: optim.SGD(groups, momentum=0.9), [one] * 3, values
    )
    assert_same(
        keras.optimizers.SGD(0.05, momentum=0.9),
        HyperparameterScheduler(
            learning_rate=PerVariable({"early": 0.005, "late": 0.02}),
            momentum=PerVariable({"late": 0.5, "head": 0.7}),
        ),
        expected,
    )


def test_sgd_whose_groups_have_schedules():
    values = {"early": {"lr": 0.05}, "late": {"lr": 0.05}, "head": {"lr": 0.02}}
    expected = trained_by_torch(
        lambda optim, groups: optim.SGD(groups), [halving, falling, one], values
    )
    assert_same(
        keras.optimizers.SGD(0.02),
        HyperparameterScheduler(
            learning_rate=PerVariable(
                {"early": S.StepDecay(0.05, 10, 0.5), "late": S.LinearDecay(0.05)}
            )
        ),
        expected,
    )


def test_adam_whose_groups_have_multiples_of_one_schedule():
    values = {"early": {"lr": 0.005}, "late": {"lr": 0.02}, "head": {"lr": 0.05}}
    expected = trained_by_torch(
        lambda optim, groups: optim.Adam(groups, **ADAM), [falling] * 3, values
    )
    assert_same(
        keras.optimizers.Adam(0.05, beta_2=0.95),
        HyperparameterScheduler(
            learning_rate=S.LinearDecay(0.05),
            rate_multipliers={"early": 0.1, "late": 0.4},
        ),
        expected,
    )


def test_adamw_whose_groups_have_weight_decays():
    values = {
        "early": {"lr": 0.01, "weight_decay": 0.0},
        "late": {"lr": 0.05, "weight_decay": 0.3},
        "head": {"lr": 0.02, "weight_decay": 0.1},
    }
    expected = trained_by_torch(
        lambda optim, groups: optim.AdamW(groups, **ADAM), [halving] * 3, values
    )
    assert_same(
        keras.optimizers.AdamW(0.05, weight_decay=0.1, beta_2=0.95),
        HyperparameterScheduler(
            learning_rate=S.StepDecay(0.05, 10, 0.5),
            rate_multipliers={"early": 0.2, "head": 0.4},
            weight_decay=PerVariable({"early": 0.0, "late": 0.3}),
        ),
        expected,
    )


def test_optax_partition():
    optax = pytest.importorskip("optax")
    transforms = {
        "slow": optax.sgd(0.005, momentum=0.5),
        "falling": optax.sgd(optax.linear_schedule(0.05, 0.0, STEPS)),
        "frozen": optax.set_to_zero(),
    }
    labels = dict(zip(grouped.NAMES, transforms, strict=True))
    peer = optax.partition(transforms, labels)
    weights = {name: np.zeros((3, 1), "float32") for name in grouped.NAMES}
    state, expected = peer.init(weights), []
    for step in range(STEPS):
        gradients = {
            name: references.gradient(np.asarray(w, np.float64), step).astype("float32")
            for name, w in weights.items()
        }
        updates, state = peer.update(gradients, state, weights)
        weights = optax.apply_updates(weights, updates)
        expected.append(weights)
    assert_same(
        keras.optimizers.SGD(0.005, momentum=0.5),
        HyperparameterScheduler(
            learning_rate=PerVariable({"late": S.LinearDecay(0.05), "head": 0.0}),
            momentum=PerVariable({"late|head": 0.0}),
        ),
        expected,
    )


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none"
)
def test_an_optimizer_for_each_group_of_layers():
    # The pairs of TF-Addons' `MultiOptimizer`; keras-adamw's `lr_multipliers` are this.
    rates = {"early": 0.005, "late": 0.02, "head": 0.05}
    several = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            keras.optimizers.Adam(rates["head"]),
            {
                f"{name}/.*": keras.optimizers.Adam(rates[name])
                for name in grouped.NAMES
            },
        )
    )
    model, record = grouped.linear_models(several), Record()
    grouped.fit(model, [record], EPOCHS)
    expected = [dict(zip(grouped.NAMES, one, strict=True)) for one in record.weights]
    multipliers = {"early/": 0.1, "late/": 0.4}
    for arguments in (
        {"rate_multipliers": multipliers},
        {"learning_rate": PerVariable({"early/": 0.005, "late/": 0.02})},
    ):
        callback = HyperparameterScheduler(**arguments)
        assert_same(keras.optimizers.Adam(0.05), callback, expected)


# --- timm -----------------------------------------------------------------------------


@pytest.fixture
def layer_decay(timm):
    """`timm.optim.param_groups_layer_decay` without timm's models and layers."""
    for name in ("layers", "models", "optim"):
        package = types.ModuleType(f"timm.{name}")
        package.__path__ = [f"{path}/{name}" for path in sys.modules["timm"].__path__]
        sys.modules[f"timm.{name}"] = package
    sys.modules["timm.layers"].use_reentrant_ckpt = None
    manipulate = importlib.import_module("timm.models._manipulate")
    sys.modules["timm.models"].group_parameters = manipulate.group_parameters
    return importlib.import_module("timm.optim._param_groups").param_groups_layer_decay


DEPTH = 11


def their_transformer():
    """What timm's groups see of a vision transformer: names, and its matcher."""
    import torch

    class Transformer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_embed = torch.nn.Linear(2, 2)
            blocks = [torch.nn.Linear(2, 2) for _ in range(DEPTH)]
            self.blocks = torch.nn.ModuleList(blocks)
            self.head = torch.nn.Linear(2, 1)

        def group_matcher(self, coarse):
            return {"stem": r"^patch_embed", "blocks": [(r"^blocks\.(\d+)", None)]}

    return Transformer()


def our_transformer(depth=DEPTH):
    layers = [
        keras.layers.Dense(2, name="patch_embed"),
        *(keras.layers.Dense(2, name=f"blocks_{i}") for i in range(depth)),
        keras.layers.Dense(1, name="head"),
    ]
    return keras.Sequential([keras.Input((2,)), *layers], name="vit")


def test_timm_scales_the_rates_of_layers(layer_decay):
    theirs = their_transformer()
    names = {id(one): name for name, one in theirs.named_parameters()}
    expected, decays = {}, {}
    for group in layer_decay(theirs, weight_decay=0.05, layer_decay=0.65):
        for one in group["params"]:
            layer, kind = names[id(one)].rsplit(".", 1)
            path = f"vit/{layer.replace('.', '_')}/"
            path += {"weight": "kernel", "bias": "bias"}[kind]
            expected[path] = group["lr_scale"]
            decays[path] = group["weight_decay"]
    ours = our_transformer()
    blocks = ["(^|/)patch_embed/", r"(^|/)blocks_(\d+)/", "(^|/)head/"]
    for found in (
        lrs.layerwise_decay(ours, 0.65, blocks),
        lrs.layerwise_decay(ours, 0.65),
    ):
        decided = PerVariable(found)
        multipliers = {
            v.path: found[decided.pattern_of(v.path)] for v in ours.variables
        }
        assert multipliers == pytest.approx(expected, rel=1e-12)
    without = PerVariable({"/(bias|gamma|beta)$": 0.0})
    for path, decay in decays.items():
        assert (without.pattern_of(path) is not None) == (decay == 0.0), path


def test_fastai_spreads_the_rates_of_a_slice():
    # `even_mults` and `Optimizer.set_hypers`: a geometric sequence over the groups.
    for start, groups in ((1e-5, 3), (1e-4, 4), (1e-3, 2)):
        stop, model = 1e-3, our_transformer(groups - 2)
        step = (stop / start) ** (1.0 / (groups - 1))
        expected = [start * step**i for i in range(groups)]
        factor = (start / stop) ** (1.0 / (groups - 1))
        multipliers = lrs.layerwise_decay(model, factor)
        rates = [stop * one for one in reversed(multipliers.values())]
        np.testing.assert_allclose(rates, expected, rtol=1e-12)
    # `Learner.lr_range` of a slice without a start: a tenth for all but the last group.
    model = our_transformer(1)
    decided = PerVariable({"head/": 1.0, ".*": 0.1})
    values = [dict(decided.values)[decided.pattern_of(v.path)] for v in model.variables]
    assert values == [0.1] * 4 + [1.0] * 2


# --- The guide ------------------------------------------------------------------------


def test_the_recipes_of_the_guide_are_one():
    torch = pytest.importorskip("torch")
    page = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "groups.md"
    (code,) = re.findall(r"```text\n(.*?)```", page.read_text(), re.DOTALL)
    source = "\n".join(re.findall(r"^(?:>>>|\.\.\.) (.*)$", page.read_text(), re.M))
    model = source[: source.index("typo =")]
    ours: dict = {}
    exec(model, ours)
    weights = {v.path: v.shape for v in ours["model"].trainable_variables}

    class Module(torch.nn.Module):
        def named_parameters(self):
            return {
                path: torch.zeros(*shape) for path, shape in weights.items()
            }.items()

    theirs = {"torch": torch, "module": Module()}
    exec(code, theirs)
    multipliers = source[source.index("multipliers = ") :].split("\nfor ")[0]
    exec(multipliers, ours)
    rates = PerVariable(ours["multipliers"])
    decays = eval(
        re.search(r"weight_decay=(PerVariable\(.*\)),", source).group(1), ours
    )
    groups = theirs["optimizer"].param_groups
    for path, group in zip(weights, groups, strict=True):
        rate = 1e-3 * ours["multipliers"][rates.pattern_of(path)]
        assert group["lr"] == pytest.approx(rate), path
        decay = 0.05 if decays.pattern_of(path) is None else 0.0
        # In Keras the biases of attention are matrices, one row a head.
        if len(weights[path]) == 1 or "bias" not in path:
            assert group["weight_decay"] == decay, path
