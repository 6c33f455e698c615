"""Medians with 95 % intervals, and what they say about an aim."""

import statistics
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2_000
ABOVE, MET, UNDECIDED = "above", "met", "undecided"


@dataclass(frozen=True)
class Estimate:
    """The median of one number per round, with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values):
        """Estimates the median of the population that the rounds are drawn from."""
        random = np.random.default_rng(0)
        resampled = random.choice(np.asarray(values), (RESAMPLES, len(values)))
        low, high = np.quantile(np.median(resampled, axis=1), [0.025, 0.975])
        return cls(statistics.median(values), float(low), float(high), len(values))

    @classmethod
    def of_ratio(cls, samples, reference):
        """Estimates the ratio of samples to those of a reference in the same rounds."""
        return cls.of(np.divide(samples, reference).tolist())

    def cell(self, factor=1.0, digits=2):
        """Returns what a table shows, in a unit of which `factor` are one."""
        found = (self.median, self.low, self.high)
        median, low, high = (f"{number * factor:.{digits}f}" for number in found)
        return f"{median} [{low}, {high}]"


def ratios(samples, reference):
    """Estimates the ratio of each contender to the one named `reference`."""
    return {
        name: Estimate.of_ratio(found, samples[reference])
        for name, found in samples.items()
        if name != reference
    }


def noise(control, neutral=1.0):
    """Returns how far a control, which should be `neutral`, is from it."""
    return abs(control.median - neutral)


def verdict(found, aim, noise=0.0):
    """Says whether an estimate is above an aim, by more than the noise."""
    if found.low > aim + noise:
        return ABOVE
    return MET if found.high <= aim + noise else UNDECIDED
