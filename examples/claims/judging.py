"""How a claim is judged: intervals of paired differences, and three outcomes.

A claim is a list of statements, and a statement is a list of comparisons. Each of them
is true ("yes"), false ("no"), or not decided by the runs ("cannot be told"):

- A difference is decided if its 95 % interval lies on one side of a threshold, which is
  0 for "better", and the margin below 0 for "no worse" and "as good as", and if its
  corrected p-value is below 0.05. A difference that was not found decides nothing.
- The p-values of all comparisons of a claim are corrected together by Holm's method.
- A statement is true if all its comparisons are, and false if one of them is false. The
  same goes for a claim and its statements.
"""

import dataclasses
import math
import statistics

import program

YES, NO, UNTOLD = "yes", "no", "cannot be told"
LEVEL = 0.05  # Of error, for all comparisons of a claim together.
MARGIN = 0.5  # Points of accuracy that "as good as" may lose.
LOSS_MARGIN = 0.01
RESAMPLES = 10_000
FEWEST = 5  # Seeds that can be drawn with replacement and tell anything.
POINTS = "points"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A number with its 95 % interval, and the threshold that it is to exceed.

    Args:
        what: The name of the comparison within its statement.
        mean: The estimate.
        low: The lower end of the interval; nan with a single seed.
        high: The upper end.
        threshold: What the number must lie above.
        p: The probability of a number at least as far from the threshold, if the
            threshold were true; on both sides.
        by: The number in words.
        vacuous: Whether it says nothing where it is true.
    """

    what: str
    mean: float
    low: float
    high: float
    threshold: float
    p: float
    by: str
    vacuous: bool = False

    def outcome(self, adjusted):
        """What an adjusted p-value says of it."""
        if not adjusted < LEVEL:
            return UNTOLD
        if self.mean <= self.threshold:
            return NO
        return UNTOLD if self.vacuous else YES


@dataclasses.dataclass(frozen=True)
class Fact:
    """What is so or not without any noise; None if it was not measured."""

    what: str
    holds: bool | None
    by: str

    @property
    def known(self):
        """The outcome, which no correction changes."""
        return {True: YES, False: NO, None: UNTOLD}[self.holds]


@dataclasses.dataclass(frozen=True)
class Statement:
    """One sentence of a claim."""

    text: str
    comparisons: tuple[Comparison | Fact, ...]

    def __init__(self, text, *comparisons):
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "comparisons", comparisons)


@dataclasses.dataclass(frozen=True)
class Judged:
    """A statement, its outcome, and that of each comparison."""

    statement: Statement
    outcome: str
    outcomes: tuple[str, ...]

    SHOWN = 4  # More comparisons than these are counted; those that are false, named.

    @property
    def by(self):
        """What the outcome rests on."""
        pairs = list(zip(self.statement.comparisons, self.outcomes, strict=True))
        if len(pairs) == 1:
            return pairs[0][0].by
        if len(pairs) <= self.SHOWN:
            return "; ".join(f"{one.what}: {one.by}, {said}" for one, said in pairs)
        counts = ", ".join(f"{self.outcomes.count(w)} {w}" for w in (YES, NO, UNTOLD))
        false = "; ".join(f"{one.what}: {one.by}" for one, said in pairs if said == NO)
        return f"of {len(pairs)}: {counts}" + (f" ({false})" if false else "")


# --- Comparisons ----------------------------------------------------------------------


def interval(differences):
    """The mean of the differences of seeds, and half of its 95 % interval (Student)."""
    import numpy as np

    differences = np.asarray(differences, float)
    # Equal accuracies may differ by a rounding.
    return (
        round(float(differences.mean()), 9),
        round(float(program.half_interval(differences)), 9),
    )


def p_value(differences, threshold):
    """Student's, that the mean of the differences is the threshold."""
    import numpy as np
    from scipy import stats

    differences = np.asarray(differences, float)
    if len(differences) == 1:
        return 1.0
    mean, half = interval(differences)
    if half == 0.0:
        return 1.0 if mean == threshold else 0.0
    p = float(stats.ttest_1samp(differences, threshold).pvalue)
    return p if math.isfinite(p) else 1.0  # With a loss that is nan nothing is told.


def difference(what, ours, theirs, margin=0.0, unit=POINTS, digits=2, sign=1.0):
    """Whether ours are above theirs by more than minus the margin, seed for seed.

    Args:
        what: The name of the comparison.
        ours: A number for each seed.
        theirs: The same of what it is compared with.
        margin: What ours may lose: 0 asks for a gain.
        unit: Of the numbers, in words; empty for a loss.
        digits: That are shown.
        sign: -1 where less is better. What is shown is ours - theirs all the same.
    """
    import numpy as np

    differences = np.subtract(ours, theirs)
    mean, half = interval(differences)
    by = f"{mean:+.{digits}f} ± {half:.{digits}f} {unit}".rstrip()
    if margin:
        edge = "below" if sign < 0 else "above"
        by += f" (must be {edge} {-sign * margin:+g})"
    mean *= sign
    return Comparison(
        what, mean, mean - half, mean + half, -margin,
        p_value(sign * differences, -margin), by,
    )  # fmt: skip


def better(text, ours, theirs, **options):
    """A statement: ours are above theirs."""
    return Statement(text, difference("", ours, theirs, **options))


def no_worse(text, ours, theirs, margin=MARGIN, **options):
    """A statement: ours are below theirs by less than the margin."""
    return Statement(text, difference("", ours, theirs, margin, **options))


def lower_loss(text, ours, theirs, margin=0.0):
    """A statement on losses: ours are below theirs, or above by less than a margin."""
    return Statement(text, loss_difference("", ours, theirs, margin))


def loss_difference(what, ours, theirs, margin=0.0):
    """A comparison of losses, of which less is better."""
    return difference(what, ours, theirs, margin, unit="", digits=4, sign=-1.0)


def resample(statistic, seeds):
    """A statistic of all seeds, and of seeds drawn with replacement, again and again.

    Few seeds are not drawn from: then there is no draw.

    Args:
        statistic: A function of an array of seeds' numbers, to a number or an array.
        seeds: How many there are.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    draws = rng.integers(0, seeds, (RESAMPLES if seeds >= FEWEST else 0, seeds))
    every = np.asarray(statistic(np.arange(seeds)), float)
    drawn = np.array([statistic(draw) for draw in draws])
    return every, drawn.reshape(-1, *every.shape)


def bootstrap(what, statistic, seeds, threshold, unit="", digits=2):
    """Whether a statistic of the seeds exceeds the threshold, by its percentiles."""
    return exceeds(what, *resample(statistic, seeds), threshold, unit, digits)


def exceeds(what, mean, found, threshold, unit="", digits=2):
    """The same of a statistic of all seeds and of draws, as of `resample`."""
    import numpy as np

    mean = float(mean)
    if not len(found):
        by = f"{mean:.{digits}f} {unit}".rstrip()
        return Comparison(what, mean, math.nan, math.nan, threshold, 1.0, by)
    low, high = np.percentile(found, [100 * LEVEL / 2, 100 - 100 * LEVEL / 2])
    tail = min((found <= threshold).mean(), (found >= threshold).mean())
    # Of so many draws, none beyond is not a probability of 0.
    p = min(1.0, 2.0 * max(float(tail), 1.0 / RESAMPLES))
    if np.isnan(found).any():
        p = 1.0
    by = f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}] {unit}".rstrip()
    return Comparison(what, mean, float(low), float(high), threshold, p, by)


def log_slopes(lengths, norms):
    """Of each seed, the slope of lengths over norms, both on a log scale.

    Args:
        lengths: An array of stages and seeds.
        norms: The same.
    """
    import numpy as np

    pairs = zip(np.log(norms).T, np.log(lengths).T, strict=True)
    return [float(np.polyfit(norm, length, 1)[0]) for norm, length in pairs]


def largest(values):
    """The largest value; nan if one of them is, which `max` may pass over."""
    import numpy as np

    return float(np.max(list(values)))


def at_most(what, value, limit, by):
    """A fact: a value is within a limit. Of what diverged nothing is told."""
    return Fact(what, None if math.isnan(value) else value <= limit, by)


# --- Outcomes -------------------------------------------------------------------------


def holm(p_values):
    """The p-values, adjusted for their number (Holm, 1979), in their order."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(largest, 1.0)
    return adjusted


def together(outcomes):
    """Of a conjunction: false if one is false, true if all are true."""
    if NO in outcomes:
        return NO
    # Not `all`, which is true of no outcomes.
    return YES if set(outcomes) == {YES} else UNTOLD


def judge(statements):
    """Each statement with its outcome; all their comparisons are corrected together."""
    statements = list(statements)
    ps = [one.p for each in statements for one in comparisons_of(each)]
    adjusted = iter(holm(ps))
    found = []
    for each in statements:
        outcomes = tuple(
            one.known if isinstance(one, Fact) else one.outcome(next(adjusted))
            for one in each.comparisons
        )
        found.append(Judged(each, together(outcomes), outcomes))
    return found


def comparisons_of(statement):
    """Those that noise could decide wrongly."""
    return [one for one in statement.comparisons if isinstance(one, Comparison)]


def verdict(judged):
    """The outcome of a claim, and how many of its statements have which."""
    outcomes = [one.outcome for one in judged]
    counts = ", ".join(
        f"{outcomes.count(word)} {word}"
        for word in (YES, NO, UNTOLD)
        if word in outcomes
    )
    return f"{together(outcomes)} (of {len(outcomes)}: {counts})"


def spread(runs, digits=2):
    """The mean and the standard deviation over runs."""
    return f"{statistics.mean(runs):.{digits}f} ± {statistics.pstdev(runs):.{digits}f}"
