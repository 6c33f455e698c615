"""The numeric functions with which every schedule is written, once.

Each function here has three columns and picks one by the type of its argument:

- a Python number: `math`, in float64. A single known step costs microseconds, which an
  eager backend (PyTorch) pays in every training step;
- a NumPy array: NumPy, in float64. The reference that `Schedule.curve` returns;
- a tensor: `keras.ops`, in float32 (float64 if that is Keras's `floatx`). The compiled
  training step.

Time stays an integer until the last operation. A float32 cannot count past 2**24, so
a number of steps becomes a float in `ratio`, `fractions`, `exponential`, `geometric`
and `power`, each of which keeps its *relative* precision at both ends.

No other module of the schedules depends on the backend.
"""

from keras_lrs.schedules.numerics.columns import (
    BACKEND,
    LARGEST,
    exp,
    expm1,
    float_dtype,
    floor,
    full,
    half_cosine,
    is_number,
    is_tensor,
    log,
    log1p,
    maximum,
    minimum,
    raised,
    sin,
    sqrt,
    where,
)
from keras_lrs.schedules.numerics.exponentials import exponential, geometric, power
from keras_lrs.schedules.numerics.steps import (
    is_scalar,
    known_value,
    mapped,
    to_learning_rate,
    to_steps,
)
from keras_lrs.schedules.numerics.tables import Lookup, gather
from keras_lrs.schedules.numerics.time import (
    HORIZON,
    Length,
    capped,
    count_reached,
    divided,
    fitting,
    fractions,
    ratio,
    reached,
    scrambled,
    share,
    since,
    to_float,
)

__all__ = [
    "BACKEND",
    "HORIZON",
    "LARGEST",
    "Length",
    "Lookup",
    "capped",
    "count_reached",
    "divided",
    "exp",
    "expm1",
    "exponential",
    "fitting",
    "float_dtype",
    "floor",
    "fractions",
    "full",
    "gather",
    "geometric",
    "half_cosine",
    "is_number",
    "is_scalar",
    "is_tensor",
    "known_value",
    "log",
    "log1p",
    "mapped",
    "maximum",
    "minimum",
    "power",
    "raised",
    "ratio",
    "reached",
    "scrambled",
    "share",
    "sin",
    "since",
    "sqrt",
    "to_float",
    "to_learning_rate",
    "to_steps",
    "where",
]
