"""Maps unknown argument names, such as another library's, to ours."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_FIRST = "initial_learning_rate max_learning_rate learning_rate value"
_LAST = "end_learning_rate min_learning_rate minimum"
_LENGTH = "decay_steps first_decay_steps total_steps num_steps cycle_steps warmup_steps"
# The names in Keras, PyTorch, optax, timm, transformers, Composer and fastai, and our
# names for the same. The first of our names that a function has is suggested.
_TABLE = {
    "lr rate base_lr init_value initial_lr learning_rate": _FIRST,
    "max_lr lr_max peak_lr peak_value": f"max_learning_rate maximum {_FIRST}",
    "maximal_learning_rate max_learning_rate": f"max_learning_rate {_FIRST}",
    "alpha alpha_f eta_min min_lr lr_min end_lr lr_end end_value": _LAST,
    "steps n_steps num_steps total_steps decay_steps max_steps": _LENGTH,
    "T_max t_max T_0 t_initial num_training_steps transition_steps": _LENGTH,
    "total_iters": _LENGTH,
    "step_size_up": "step_size",
    "warmup warmup_t num_warmup_steps warmup_iters": "warmup_steps",
    "pct_start warmup_ratio": "warmup_fraction warmup_steps",
    "gamma decay factor": "decay_rate average decay factor m_mul",
    "milestones decay_t": "boundaries milestones",
    "T_mult cycle_mul": "t_mul",
    "cycle_decay": "m_mul",
    "cycles cycle_limit": "num_cycles",
    "div": "div_factor",
    "div_final": "final_div_factor",
    "beta momentum average_decay ema_decay": "beta decay average",
    "wd": "weight_decay",
    "beta1 b1 momentum": "beta_1",
    "beta_1": "momentum",
    "beta2 b2": "beta_2",
    "eps": "epsilon",
}
_OURS = [(theirs.split(), ours.split()) for theirs, ours in _TABLE.items()]


def meant(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that another name probably stands for, if any."""
    known = list(known)
    for theirs, ours in _OURS:
        for candidate in ours if name in theirs else ():
            if candidate in known:
                return candidate
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return close[0] if close else None


def hint(name: str, known: Iterable[str]) -> str:
    """Returns a sentence that suggests the right name, or an empty string."""
    found = meant(name, known)
    if found is None:
        return ""
    # In Keras and Composer these are fractions of the first rate; ours are rates.
    share = name in ("alpha", "alpha_f") and found.endswith("learning_rate")
    more = f", a rate: {name} times the first one" if share else ""
    return f"Did you mean `{found}`{more}? "


def hinted(function: F) -> F:
    """Makes a function suggest the right argument for an unknown name."""
    found = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in found.values())
    parameters = {
        name: p
        for name, p in found.items()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    known = [name for name in parameters if name != "self"]
    empty = inspect.Parameter.empty

    @functools.wraps(function)
    def call(*arguments, **keywords):
        missing = [
            name
            for name in list(parameters)[len(arguments) :]
            if parameters[name].default is empty and name not in keywords
        ]
        for name in keywords:
            # If a function takes any name, only a missing argument can be meant.
            if name not in parameters and (not takes_any or meant(name, missing)):
                owner = function.__qualname__.removesuffix(".__init__")
                raise TypeError(
                    f"`{owner}` has no argument `{name}`. {hint(name, known)}"
                    f"It has: {', '.join(known)}"
                )
        return function(*arguments, **keywords)

    return call  # type: ignore[return-value]
