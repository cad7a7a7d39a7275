"""What task, candidates, routing and learning must agree on where outcomes come from a table."""

from collections.abc import Iterator, Sequence

from haps_search.config.candidates import CandidateConfig
from haps_search.config.learning import LearningConfig
from haps_search.config.routing import RoutingConfig
from haps_search.config.tasks import TaskConfig


def replay_problem(
    task: TaskConfig, candidates: Sequence[CandidateConfig], routing: RoutingConfig, learning: LearningConfig
) -> str | None:
    """The first disagreement, with the path it is at; None where there is none."""
    from_table = [c.name for c in candidates if c.source.type == "table"]
    replays = task.type == "replay"
    if from_table and not replays:
        return f"candidates: {from_table[0]} is a model of a table, got task {task.type}: use task type replay"
    if replays and len(from_table) < len(candidates):
        other = next(c for c in candidates if c.source.type != "table")
        return f"candidates: task replay asks nobody, got {other.name} from {other.source.type}: use type table"
    if replays and routing.low_level.type != "none":
        return f"routing.low_level: got {routing.low_level.type}, but models of a table take no weights: use type none"
    return next(_of_signal(replays, routing, learning), None)


def _of_signal(replays: bool, routing: RoutingConfig, learning: LearningConfig) -> Iterator[str]:
    if learning.signal == "outcomes":
        if not replays:
            yield "learning.signal: outcomes needs task type replay: episodes of other tasks have to be played"
    else:
        yield from _only_outcomes(routing, learning)
        if replays and learning.cost_weight > 0:
            yield (
                f"learning.cost_weight: got {learning.cost_weight:g}, but an episode of a replay knows no cost: set "
                "learning.signal: outcomes, or cost_weight: 0"
            )
    if learning.cost_conditioned is not None and routing.backbone.type != "features":
        yield "learning.cost_conditioned: only routing.backbone type features reads the weight of cost"


def _only_outcomes(routing: RoutingConfig, learning: LearningConfig) -> Iterator[str]:
    for path, used in (
        ("learning.cost_conditioned", learning.cost_conditioned is not None),
        ("learning.task_smoothing", learning.task_smoothing > 0),
        ("routing.backbone.dropout", getattr(routing.backbone, "dropout", 0.0) > 0),
    ):
        if used:
            yield f"{path}: works on whole rows of a table: set learning.signal: outcomes"
