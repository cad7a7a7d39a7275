"""What a space, its arms and the pool they share must satisfy before a trial is run under them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from pydantic import TypeAdapter, ValidationError

from haps_search.config.candidates import CandidateConfig, Price
from haps_search.config.complaints import show, validate
from haps_search.config.conditions import (
    Space,
    active,
    canonical,
    combinations,
    cycle,
    finite,
    ordered,
    reachable,
    wanted,
)
from haps_search.config.distributions import Choice, Distribution, FloatRange, IntRange, LogRange
from haps_search.config.document import Problem, Where, dotted
from haps_search.config.overrides import with_parameters
from haps_search.config.run import Experiment
from haps_search.config.schema import exists, paths, suggest
from haps_search.errors import ConfigError

SHARE = "run.validation.choosing_share"
VALIDATED = (SHARE, "run.validation.drawn")
ONE_SHARE = "all are chosen and measured on the same questions: set it in experiment.run.validation"


def pool_problems(experiment: Mapping[str, Any], changed: Mapping[str, Any]) -> list[Problem]:
    """Candidates of a changed experiment that the pool does not host: it holds the experiment's own, once for all
    trials. Fewer of them, another order, descriptions and prices are the trial's affair.
    """
    ours, theirs = validate(Experiment, experiment)[0], validate(Experiment, changed)[0]
    if ours is None or theirs is None:
        return []
    hosted = {c.name: _hosted(c) for c in ours.candidates}
    return [
        Problem(
            ("candidates",),
            f"{c.name} is not hosted like this: all trials share the pool of experiment.candidates, so list it there, "
            "under a name of its own, and choose among those names",
        )
        for c in theirs.candidates
        if _hosted(c) != hosted.get(c.name)
    ]


def _hosted(candidate: CandidateConfig) -> CandidateConfig:
    """Without what only routers and costs look at."""
    return candidate.model_copy(update={"description": "", "price": Price()})


def arm_problems(arms: Mapping[str, Any], experiment: Mapping[str, Any]) -> list[Problem]:
    """Every problem of arms laid over an experiment's plain values (which may be wrong themselves)."""
    known = {p.text for p in validate(Experiment, experiment)[1]}
    found = [p for name, arm in arms.items() if isinstance(arm, Mapping) for p in _arm(name, arm, experiment, known)]
    written = {name: canonical(arm) for name, arm in arms.items()}
    for index, (name, arm) in enumerate(written.items()):
        twin = next((other for other in list(written)[:index] if written[other] == arm), None)
        if twin is not None:
            found.append(Problem(("arms", name), f"is the same as {twin}"))
    return found


def _arm(name: str, arm: Mapping[str, Any], experiment: Mapping[str, Any], known: set[str]) -> Iterator[Problem]:
    where: Where = ("arms", name)
    shared = [path for path in arm if path.split(".")[0] == "engine"]
    if shared:
        yield Problem((*where, shared[0]), "all trials share one engine and its pool: set it in experiment.engine")
    yield from (Problem((*where, path), ONE_SHARE) for path in VALIDATED if path in arm)
    if "run.seed" in arm:
        yield Problem((*where, "run.seed"), "seeds are the same for all arms: list them in sweep.seeds")
    try:
        changed = with_parameters(experiment, arm)
    except ConfigError as error:
        yield from (Problem(where, text) for text in error.problems)
        return
    found = [p for p in validate(Experiment, changed)[1] if p.text not in known]
    yield from (Problem(where, p.text) for p in [*found, *pool_problems(experiment, changed)])


_ADAPTER: TypeAdapter[Distribution] = TypeAdapter(Distribution)
_COMBINATIONS = 256
"""More are not tried beforehand; a trial would still refuse them by name."""


def readable(space: Any) -> dict[str, Distribution]:
    """The entries that are well-formed distributions; the others are the schema's business."""
    found = {}
    for name, entry in space.items() if isinstance(space, dict) else ():
        try:
            found[name] = _ADAPTER.validate_json(canonical(entry), strict=True)
        except ValidationError:
            continue
    return found


def space_problems(space: Space, named: list[str], experiment: Mapping[str, Any], grid: bool) -> list[Problem]:
    """Every problem of a space around an experiment's plain values (which may be wrong themselves).

    `named` are all names of the space, the unreadable ones too; `grid` says that the sampler enumerates.
    """
    problems = [p for name in named for p in _path(name)]
    problems += [p for name in space for p in _conditions(name, space, named)]
    waiting = cycle(space)
    problems += [Problem(("space", n), f"waits for itself, through {', '.join(waiting)}") for n in waiting]
    sound = _sound(space, {str(p.where[1]) for p in problems})
    problems += [p for name in space for p in _ranges(name, space[name])]
    if grid:
        problems += [p for name in space for p in _grid(name, space[name])]
    known = {(p.where, p.text) for p in validate(Experiment, experiment)[1]}
    problems += _alone(sound, experiment, known)
    clean = not problems and len(space) == len(named)
    return _together(space, experiment, known) if clean else problems


def _sound(space: Space, broken: set[str]) -> dict[str, Distribution]:
    """The parameters that can be tried: neither broken nor, through a parent, dependent on a broken one."""
    sound = {n: d for n, d in space.items() if n not in broken}
    while lost := [n for n, d in sound.items() if any(parent not in sound for parent in d.when)]:
        for name in lost:
            del sound[name]
    return sound


def _path(name: str) -> Iterator[Problem]:
    where: Where = ("space", name)
    if name.startswith("experiment."):
        yield Problem(where, f"paths start inside experiment: write {name.removeprefix('experiment.')}")
    elif not exists((Experiment,), name.split(".")):
        yield Problem(where, f"no such path in experiment; {suggest(name, paths((Experiment,)), 'it has')}")
    elif name in VALIDATED:
        yield Problem(where, ONE_SHARE)
    elif name.split(".")[0] == "engine":
        yield Problem(where, "all trials share one engine and its pool: set it in experiment.engine")


def _ranges(name: str, distribution: Distribution) -> Iterator[Problem]:
    where: Where = ("space", name)
    if isinstance(distribution, Choice):
        written = [canonical(v) for v in distribution.values]
        for i, value in enumerate(distribution.values):
            if written.index(canonical(value)) < i:
                yield Problem((*where, "values", i), f"{show(value)} is listed twice")
        return
    low, high = distribution.low, distribution.high
    if low >= high:
        yield Problem((*where, "low"), f"got low {low} and high {high}, needs low < high")
    elif isinstance(distribution, IntRange) and (high - low) % distribution.step:
        last = range(int(low), int(high) + 1, distribution.step)[-1]
        yield Problem((*where, "step"), f"steps of {distribution.step} from {low} miss high {high}: set high to {last}")


def _conditions(name: str, space: Space, named: list[str]) -> Iterator[Problem]:
    for parent, value in space[name].when.items():
        where: Where = ("space", name, "when", parent)
        if parent not in named:
            yield Problem(where, f"no such parameter in the space; {suggest(parent, named, 'it has')}")
        elif parent in space and finite(space[parent]) is None:
            yield Problem(where, "a float never equals a value: the parent must be a choice or an int")
        elif parent in space:
            for one in wanted(value, space[parent]):
                if not reachable(one, space[parent]):
                    yield Problem(where, f"{parent} never takes {show(one)}; it takes {_taken(space[parent])}")


def _taken(distribution: Distribution) -> str:
    if isinstance(distribution, IntRange):
        step = f" in steps of {distribution.step}" if distribution.step > 1 else ""
        return f"{distribution.low} to {distribution.high}{step}"
    return ", ".join(show(v) for v in finite(distribution) or ())


def _grid(name: str, distribution: Distribution) -> Iterator[Problem]:
    if isinstance(distribution, (FloatRange, LogRange)):
        text = f"a grid cannot enumerate {distribution.type}: list values with type: choice, or set "
        yield Problem(("space", name, "type"), f"{text}sweep.sampler.type to tpe or random")


def _probes(distribution: Distribution) -> list[Any]:
    """The values tried on the experiment: every choice, the ends of a range."""
    if isinstance(distribution, Choice):
        return list(distribution.values)
    return [distribution.low, distribution.high]


def _alone(space: Space, experiment: Mapping[str, Any], known: set[tuple[Where, str]]) -> list[Problem]:
    """Try the probes of each parameter by itself, under its parents."""
    problems: dict[tuple[Where, str], Problem] = {}
    for name in ordered(space):
        for i, probe in enumerate(_probes(space[name])):
            for parents in _parents(name, space):
                for problem in _new(experiment, {**parents, name: probe}, known):
                    found = _placed(name, space[name], i, problem)
                    problems.setdefault((found.where, found.text), found)
    return list(problems.values())


def _parents(name: str, space: Space) -> Iterator[dict[str, Any]]:
    """Values of the parameters above this one, for every way it can be active."""
    above = _above(name, space)
    part = {n: space[n] for n in space if n in above}
    for chosen in islice(combinations(part, lambda n: _asked(n, part, space[name])), _COMBINATIONS):
        if active(name, space, chosen):
            yield chosen


def _asked(parent: str, above: Space, child: Distribution) -> list[Any]:
    """The values of a parent that some `when` below it names."""
    asked = [v for d in (*above.values(), child) if parent in d.when for v in wanted(d.when[parent], above[parent])]
    return [v for i, v in enumerate(asked) if canonical(v) not in map(canonical, asked[:i])]


def _above(name: str, space: Space) -> set[str]:
    direct = set(space[name].when)
    return direct.union(*(_above(parent, space) for parent in direct))


def _new(experiment: Mapping[str, Any], parameters: Mapping[str, Any], known: set[tuple[Where, str]]) -> list[Problem]:
    """Problems that the experiment has with these parameters only."""
    try:
        changed = with_parameters(experiment, parameters)
    except ConfigError as error:
        return [Problem((), text) for text in error.problems]
    found = [p for p in validate(Experiment, changed)[1] if (p.where, p.text) not in known]
    touched = any(path.split(".")[0] == "candidates" for path in parameters)
    return [*found, *(pool_problems(experiment, changed) if touched else ())]


def _placed(name: str, distribution: Distribution, index: int, problem: Problem) -> Problem:
    part: Where = ("values", index) if isinstance(distribution, Choice) else (("low", "high")[index],)
    own = dotted(problem.where) == name or not problem.where
    text = problem.text if own else f"{dotted(problem.where)}: {problem.text}"
    return Problem(("space", name, *part), text)


def _together(space: Space, experiment: Mapping[str, Any], known: set[tuple[Where, str]]) -> list[Problem]:
    """Try the probes of all parameters together, for what only their combination breaks."""
    problems: dict[tuple[Where, str], Problem] = {}
    for chosen in islice(combinations(space, lambda n: _probes(space[n])), _COMBINATIONS):
        for p in _new(experiment, chosen, known):
            values = ", ".join(f"{k}={show(v)}" for k, v in chosen.items())
            text = f"with {values}: {dotted(p.where)}: {p.text}; state with `when` where a parameter applies"
            problems.setdefault((p.where, p.text), Problem(("space",), text))
    return list(problems.values())
