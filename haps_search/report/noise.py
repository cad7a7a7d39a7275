"""Whether a sweep ranked settings or seeds: the spread of the same setting beside that of different ones."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import f_oneway

from haps_search.report.shape import Section, Table
from haps_search.report.source import Source
from haps_search.sweep.repeats import groups

LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard deviations of the first objective: of a setting's runs over seeds, pooled, and of the settings' means.

    `p` is the chance that settings of one and the same worth would differ as much: one-way analysis of variance.
    """

    settings: int
    seeds: int
    between_seeds: float
    between_settings: float
    p: float

    @property
    def only_noise(self) -> bool:
        return not self.p < LEVEL


def runs(source: Source) -> dict[int, list[float]]:
    """The first objective of every run, by setting; settings with all their runs only."""
    if source.study is None:
        return {}
    metric, seeds = source.objectives[0].metric, source.study.sweep.seeds_per_trial
    ranked = {t.number for t in source.ranked}
    return {
        number: [t.metrics[metric] for t in found]
        for number, found in groups(source.trials).items()
        if number in ranked and len(found) == seeds
    }


def spread(source: Source) -> Spread | None:
    """None where settings had one run each, or fewer than two have ended."""
    found = list(runs(source).values())
    if source.study is None or source.study.sweep.seeds_per_trial < 2 or len(found) < 2:
        return None
    within = fmean(stdev(values) ** 2 for values in found) ** 0.5
    between = stdev([fmean(values) for values in found])
    p = float(f_oneway(*found).pvalue) if within > 0 else float(between == 0)
    return Spread(len(found), len(found[0]), within, between, p)


def noise_verdict(source: Source) -> list[str]:
    """A sentence where it can be said."""
    found = spread(source)
    if found is None:
        return []
    sizes = (
        f"the means of {found.settings} settings have a standard deviation of {found.between_settings:.3f}, the "
        f"{found.seeds} runs of one setting {found.between_seeds:.3f} (p = {found.p:.2g})"
    )
    if found.only_noise:
        return [f"The sweep has only ranked noise: {sizes}; more seeds, or wider ranges, could tell settings apart."]
    return [f"Settings differ by more than their seeds do: {sizes}."]


def noise_section(source: Source) -> Section | None:
    """A table of settings with their mean and spread, best first; None where settings have one run each."""
    if source.study is None or source.study.sweep.seeds_per_trial < 2:
        return None
    title = "Settings and seeds"
    found = runs(source)
    if not found:
        return Section("seeds", title, missing="no setting has ended on all of its seeds yet")
    sign = -1 if source.objectives[0].mode == "max" else 1
    rows = [
        (number, fmean(values), stdev(values), min(values), max(values), len(values))
        for number, values in sorted(found.items(), key=lambda item: sign * fmean(item[1]))
    ]
    columns = ("trial", "mean", "spread over seeds", "lowest", "highest", "seeds")
    table = Table("seeds", f"{source.objectives[0].metric} of every setting", columns, tuple(rows))
    return Section("seeds", title, tuple(noise_verdict(source)), (table,))
