"""What a role reads at its turn."""

from __future__ import annotations

import re
from collections.abc import Iterator

from haps_search.config.hotpotqa import Prompts, RolePrompt
from haps_search.tasks.hotpotqa.dialogue import Dialogue
from haps_search.tasks.hotpotqa.grammar import STUDENT, Reading
from haps_search.types import Message

PLACEHOLDERS = ("question", "dialogue")
_PLACEHOLDER = re.compile(rf"\{{({'|'.join(PLACEHOLDERS)})\}}")


def problems(prompts: Prompts) -> Iterator[str]:
    """A line for each role without a prompt, or whose prompt would hide the question or the dialogue from it."""
    for role, prompt in prompts:
        where = f"task.prompts.{role}.prompt"
        if not prompt.prompt.strip():
            yield f"{where}: is empty, so the {role} has no prompt: write one, or leave it out for the default"
            continue
        lacking = [f"{{{name}}}" for name in PLACEHOLDERS if f"{{{name}}}" not in prompt.prompt]
        if lacking:
            yield f"{where}: has no {' and no '.join(lacking)}, which the {role} needs to see: put it in"


def messages(prompt: RolePrompt, question: str, state: Dialogue, role: str) -> tuple[Message, ...]:
    """The filled-in prompt, after the system message if there is one."""
    values = {"question": question, "dialogue": dialogue(state, role)}
    # One pass, so that braces in what was said are left alone.
    filled = _PLACEHOLDER.sub(lambda found: values[found[1]], prompt.prompt).strip()
    system = (Message("system", prompt.system),) if prompt.system.strip() else ()
    return (*system, Message("user", filled))


def dialogue(state: Dialogue, role: str) -> str:
    """What was found, both summaries, what was said last, and what is left.

    Earlier texts are not repeated: the running summaries stand in for them.
    """
    blocks = [_found(state)]
    blocks += [f"{name.capitalize()}'s summary: {summary}" for name, summary in state.summaries.items()]
    blocks += ["\n".join(_last(state, name, reading)) for name, reading in state.last.items()]
    blocks.append(_left(state) if role == STUDENT else f"Searches left to the student: {state.searches_left}.")
    return "\n".join(block for block in blocks if block)


def _found(state: Dialogue) -> str:
    passages = dict.fromkeys(passage for search in state.found for passage in search)
    return "\n".join(["Found:", *(f"- {p.title}: {p.text}" for p in passages)]) if passages else ""


def _last(state: Dialogue, role: str, reading: Reading) -> Iterator[str]:
    yield f"{role.capitalize()}: {reading.said}".rstrip()
    if reading.failure is not None:
        yield f"(Not readable: {reading.failure}.)"
    elif role == STUDENT and state.refused:
        yield "(No search was left.)"
    elif reading.step == "search":
        titles = "; ".join(passage.title for passage in state.found[-1])
        yield f"(This search found: {titles}.)" if titles else "(This search found nothing.)"


def _left(state: Dialogue) -> str:
    if state.turns_left == 1:
        return "This is your last turn. Answer now with Finish[...]."
    if state.searches_left == 0:
        return f"No searches are left. Answer with Finish[...]. Turns left: {state.turns_left}."
    return f"Searches left: {state.searches_left}. Turns left: {state.turns_left}."
