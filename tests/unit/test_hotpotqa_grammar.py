"""What student and teacher can say, and what of it is read."""

from __future__ import annotations

import pytest

from haps_search.tasks.hotpotqa.dialogue import Reading, read


@pytest.mark.parametrize(
    ("text", "step", "argument"),
    [
        ("Search[Velm Range]", "search", "Velm Range"),
        ("finish[ the  Harbour\nLine ]", "finish", "the Harbour Line"),
        ("Action: Search[Oram]", "search", "Oram"),
        ("**Finish[yes]**", "finish", "yes"),
        ("I know it, so Finish[Tessaly].", "finish", "Tessaly"),
        ("Finish[Alien [1979]]", "finish", "Alien [1979]"),
        # a step at the beginning of a line goes before one within a line
        ("After Search[a] I know.\nFinish[b]", "finish", "b"),
        # the first counts: what follows is the model's own dialogue
        ("Search[a]\nFound: x\nFinish[b]", "search", "a"),
        ("Summary: Search[a] said so.\nFinish[b]", "finish", "b"),
        ("Summary: nothing yet. Search[a]", "search", "a"),
        ("Research[a] Finish[b]", "finish", "b"),
    ],
)
def test_the_student_searches_or_finishes(text: str, step: str, argument: str) -> None:
    found = read("student", text)
    assert (found.step, found.argument, found.failure) == (step, argument, None)


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("Continue, that is right.", "continue"),
        ("rethink: the year is missing.\nSummary: we know the town, and continue from there.", "rethink"),
        ("Verdict: Rethink", "rethink"),
        ("I would say: continue.", "continue"),
        ("You should not rethink this.\nContinue", "continue"),
        ("Summary: the student will rethink it.\nContinue.", "continue"),
    ],
)
def test_the_teacher_says_continue_or_rethink(text: str, step: str) -> None:
    found = read("teacher", text)
    assert (found.step, found.argument, found.failure) == (step, "", None)


@pytest.mark.parametrize(
    ("role", "text", "reason"),
    [
        ("student", " \n", "the text is empty"),
        ("student", "The answer is Tessaly.", "neither Search[...] nor Finish[...]"),
        ("student", "Continue", "neither Search[...] nor Finish[...]"),
        ("student", "Finish[Tess", "Finish[ is not closed"),
        ("student", "Search[ ]", "Search[] is empty"),
        ("teacher", "Well done!", "neither Continue nor Rethink"),
        ("teacher", "Finish[x]", "neither Continue nor Rethink"),
        ("teacher", "Summary: continue", "neither Continue nor Rethink"),
        ("teacher", "Shall we continue, or rethink?", "both Continue and Rethink"),
        ("teacher", "`Continue` or `Rethink`", "both Continue and Rethink"),
    ],
)
def test_what_cannot_be_read_has_a_reason_and_no_step(role: str, text: str, reason: str) -> None:
    found = read(role, text)
    assert found.step is None
    assert found.argument == ""
    assert reason in (found.failure or "")


@pytest.mark.parametrize(
    ("role", "text", "summary", "said"),
    [
        ("student", "Summary: Oram is in\nthe Velm Range.\nSearch[Velm]", "Oram is in the Velm Range.", "Search[Velm]"),
        ("student", "I think.\nSummary: Oram is high. Search[Velm]", "Oram is high.", "I think.\nSearch[Velm]"),
        ("student", "**Summary:**\n- Search[Velm]", "", "- Search[Velm]"),
        ("student", "Finish[a]\nSummary: all known", "all known", "Finish[a]"),
        ("teacher", "Rethink. Too vague.\nSummary: only\nthe town.", "only the town.", "Rethink. Too vague."),
        ("teacher", "Summary: all known.\nContinue: yes.", "all known.", "Continue: yes."),
        ("teacher", "Summary: all known.", "all known.", ""),
        ("teacher", "Continue, says the summary", "", "Continue, says the summary"),
    ],
)
def test_the_summary_is_told_from_what_is_said(role: str, text: str, summary: str, said: str) -> None:
    found = read(role, text)
    assert (found.summary, found.said) == (summary, said)


def test_an_empty_text_reads_as_nothing() -> None:
    assert read("teacher", "") == Reading(None, "", "", "", "the text is empty")
