"""The dialogue of student and teacher, step by step, and HotpotQA's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made import said

from haps_search.config.hotpotqa import HotpotqaTask as Config
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.hotpotqa.task import HotpotqaTask, passages_of
from haps_search.tasks.passages import Passage
from haps_search.types import Completion, Episode, Question

TINY = Path(__file__).parents[1] / "assets" / "hotpotqa_tiny.jsonl"
BARE = {"student": {"prompt": "{question}\n{dialogue}"}, "teacher": {"prompt": "{question}\n{dialogue}"}}


def row(number: int = 0, **fields: Any) -> dict[str, Any]:
    context = [["Kaal", ["A town.", " It is old."]], ["Dane", ["A river."]]]
    return {"_id": f"q{number}", "question": f"What is {number}?", "answer": str(number), "context": context, **fields}


def written(folder: Path, *rows: Any) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return str(file)


def task(file: str | Path = TINY, **settings: Any) -> HotpotqaTask:
    return HotpotqaTask(Config.model_validate({"train": str(file), "validation": str(file), **settings}))


def failure(file: str, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        task(file, **settings).questions("train")
    return str(caught.value)


def played(hotpot: HotpotqaTask, *texts: str) -> Episode:
    """The first question, and these texts by whose turn it is."""
    episode = Episode(hotpot.questions("train")[0], ("m", "m"))
    for text in texts:
        turn = hotpot.turn(episode)
        assert turn is not None, f"the dialogue was over before {text!r}"
        parsed = hotpot.parse(episode.question, turn.role, text)
        completion = Completion(turn.role, "m", turn.messages, said(text), parsed)
        episode = Episode(episode.question, episode.assignment, (*episode.completions, completion))
    return episode


def reads(hotpot: HotpotqaTask, *texts: str) -> tuple[str, str]:
    """Who speaks next, and what it reads."""
    turn = hotpot.turn(played(hotpot, *texts))
    assert turn is not None
    return turn.role, turn.messages[-1].content


def test_a_whole_dialogue() -> None:
    hotpot = task(passages_per_search=1, prompts=BARE)
    assert reads(hotpot) == (
        "student",
        "In which country lies the range that holds Mount Oram?\nSearches left: 3. Turns left: 6.",
    )
    search = "Summary: nothing yet.\nSearch[Mount Oram]"
    assert reads(hotpot, search) == (
        "teacher",
        "In which country lies the range that holds Mount Oram?\n"
        "Found:\n- Mount Oram: Mount Oram is a peak in the Velm Range. It is 2104 metres high.\n"
        "Student's summary: nothing yet.\n"
        "Student: Search[Mount Oram]\n(This search found: Mount Oram.)\n"
        "Searches left to the student: 2.",
    )
    verdict = "Continue, the range is next.\nSummary: It is in the Velm Range."
    assert reads(hotpot, search, verdict)[1].splitlines()[3:] == [
        "Student's summary: nothing yet.",
        "Teacher's summary: It is in the Velm Range.",
        "Student: Search[Mount Oram]",
        "(This search found: Mount Oram.)",
        "Teacher: Continue, the range is next.",
        "Searches left: 2. Turns left: 5.",
    ]
    ended = played(hotpot, search, verdict, "Search[Velm Range]", "Continue", "Finish[Tessaly]", "Continue")
    assert hotpot.turn(ended) is None
    assert ended.answer == "Tessaly"
    assert hotpot.reward(ended) == 1.0
    assert hotpot.measures(ended) == {"exact_match": 1.0, "answered": 1.0, "searches": 2.0, "turns": 6.0}


def test_an_answer_that_is_rethought_is_replaced_by_the_next_one() -> None:
    hotpot = task()
    again = ("Finish[Velm Range]", "Rethink, that is no country.")
    assert reads(hotpot, *again)[0] == "student"
    assert hotpot.reward(played(hotpot, *again)) == 0.0
    better = played(hotpot, *again, "Finish[northern Tessaly]")
    assert reads(hotpot, *again, "Finish[northern Tessaly]")[0] == "teacher"
    # said: northern tessaly, wanted: tessaly; 2 * 1 / (2 + 1)
    assert hotpot.reward(better) == pytest.approx(2 / 3)
    assert hotpot.measures(better)["exact_match"] == 0.0


def test_a_later_search_leaves_the_last_answer_standing() -> None:
    hotpot = task(max_student_turns=2)
    ended = played(hotpot, "Finish[Tessaly]", "Rethink", "Search[Velm]")
    assert hotpot.turn(ended) is None
    assert ended.answer == "Tessaly"


def test_the_last_turn_ends_the_dialogue_and_is_announced() -> None:
    hotpot = task(max_student_turns=2, prompts=BARE)
    _, prompt = reads(hotpot, "Search[Oram]", "Continue")
    assert prompt.endswith("This is your last turn. Answer now with Finish[...].")
    ended = played(hotpot, "Search[Oram]", "Continue", "Search[Velm]")
    assert hotpot.turn(ended) is None
    assert ended.answer is None
    assert hotpot.reward(ended) == 0.0
    assert hotpot.measures(ended) == {"exact_match": 0.0, "answered": 0.0, "searches": 2.0, "turns": 3.0}


def test_a_spent_budget_is_said_and_a_search_beyond_it_finds_nothing() -> None:
    hotpot = task(search_budget=1, prompts=BARE)
    _, prompt = reads(hotpot, "Search[Oram]", "Continue")
    assert prompt.endswith("No searches are left. Answer with Finish[...]. Turns left: 5.")
    beyond = ("Search[Oram]", "Continue", "Search[Tessaly]")
    _, prompt = reads(hotpot, *beyond)
    assert "Student: Search[Tessaly]\n(No search was left.)" in prompt
    assert hotpot.measures(played(hotpot, *beyond))["searches"] == 1.0


def test_an_unreadable_text_is_quoted_with_the_reason_and_nothing_is_put_in_its_place() -> None:
    hotpot = task(prompts=BARE)
    role, prompt = reads(hotpot, "I would look for Oram.")
    assert role == "teacher"
    assert prompt.splitlines()[1:] == [
        "Student: I would look for Oram.",
        "(Not readable: it has neither Search[...] nor Finish[...].)",
        "Searches left to the student: 3.",
    ]
    role, prompt = reads(hotpot, "Finish[Tessaly]", "")
    assert role == "student"
    assert prompt.splitlines()[1:] == [
        "Student: Finish[Tessaly]",
        "Teacher:",
        "(Not readable: the text is empty.)",
        "Searches left: 3. Turns left: 5.",
    ]
    episode = played(hotpot, "I would look for Oram.", "Hm.")
    assert [u.parsed.failure is not None for u in episode.completions] == [True, True]
    assert episode.answer is None


def test_only_the_latest_texts_are_shown_and_summaries_stay() -> None:
    hotpot = task(prompts=BARE)
    texts = ("Summary: first.\nSearch[Oram]", "Continue: one.", "Search[Oram]", "Rethink: two.")
    _, prompt = reads(hotpot, *texts)
    assert "Student's summary: first." in prompt
    assert "Continue: one." not in prompt
    assert prompt.count("- Mount Oram:") == 1


def test_a_search_without_a_word_in_common_found_nothing() -> None:
    assert "(This search found nothing.)" in reads(task(prompts=BARE), "Search[zebra]")[1]


def test_braces_in_what_was_said_are_left_alone_and_systems_come_first() -> None:
    prompts = {**BARE, "teacher": {"system": "Judge.", "prompt": "{dialogue}|{question}"}}
    hotpot = task(prompts=prompts)
    turn = hotpot.turn(played(hotpot, "Search[{question}]"))
    assert turn is not None
    assert [m.role for m in turn.messages] == ["system", "user"]
    assert "Student: Search[{question}]" in turn.messages[1].content


def test_the_default_prompts_name_every_step() -> None:
    hotpot = task()
    assert all(word in reads(hotpot)[1] for word in ("Search[", "Finish[", "Summary:"))
    assert all(word in reads(hotpot, "Search[Oram]")[1] for word in ("Continue", "Rethink", "Summary:"))


def test_roles_without_prompts_and_missing_files_are_listed_at_once() -> None:
    prompts = {"student": {"prompt": "Do it: {question}"}, "teacher": {"prompt": " "}}
    with pytest.raises(ConfigError) as caught:
        task("nowhere.jsonl", prompts=prompts)
    found = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4
    assert "task.train: no file `nowhere.jsonl`" in found
    assert "task.prompts.student.prompt: has no {dialogue}, which the student needs to see" in found
    assert "task.prompts.teacher.prompt: is empty, so the teacher has no prompt" in found


def test_rows_are_read_from_lines_and_from_an_array_alike(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in TINY.read_text().splitlines()]
    for indent in (None, 2):
        file = tmp_path / f"array{indent}.json"
        file.write_text("\ufeff" + json.dumps(rows, indent=indent), encoding="utf-8")
        assert task(file).questions("train") == task().questions("train")
    first = task().questions("train")[0]
    assert (first.id, first.reference) == ("train:tiny0", "Tessaly")
    assert [p.title for p in passages_of(first)] == ["Mount Oram", "Norrsund", "Velm Range"]


BAD = [
    ({"question": "q?", "answer": "a", "context": []}, ["`context`: got [], needs a list of [title, [sentences]]"]),
    ({"_id": "x", "question": "q?", "context": [["t", ["s"]]]}, ["`answer`: got no such field", "type: qa"]),
    (row(1, answer=42), ["`answer`: got 42, needs text"]),
    (row(1, answer=["a"]), ['`answer`: got ["a"], needs text']),
    (row(1, answer=" "), ['`answer`: got " ", needs text']),
    (row(1, context="text"), ['`context`: got "text", needs a list of [title, [sentences]]']),
    (row(1, context=[["t", "s"]]), ['`context[0]`: got ["t", "s"]']),
    (row(0), ["`_id`: got `q0`, which line 1"]),
    (row(1, _id=None), ["`_id`: got null, needs text or a whole number"]),
    ([1], ["got [1], needs a JSON object"]),
]


@pytest.mark.parametrize(("bad", "wanted"), BAD)
def test_a_malformed_row_names_file_line_and_field(tmp_path: Path, bad: Any, wanted: list[str]) -> None:
    lines = failure(written(tmp_path, row(0), bad))
    array = tmp_path / "rows.json"
    array.write_text(json.dumps([row(0), bad]))
    for message, place in ((lines, "rows.jsonl:2: "), (failure(str(array)), "rows.json:1 (row 2): ")):
        for part in [place, *wanted]:
            assert part in message


def test_lines_of_a_written_out_array_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(f"\n[\n{json.dumps(row(0))},\n\n{json.dumps(row(1, answer=3))}\n]\n")
    assert "rows.json:5 (row 2): `answer`: got 3" in failure(str(file))


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("", "got no rows"),
        ("[]", "got no rows"),
        ("[", "rows.json:1 (row 1): bad JSON"),
        ("[{} {}]", "neither `,` nor `]`"),
        ("[{}, {}", "neither `,` nor `]`"),
        ('[{"a": }]', "bad JSON"),
        (f"[{json.dumps(row(0))}]\n{json.dumps(row(1))}", "goes on after the array's `]`"),
    ],
)
@pytest.mark.parametrize("malformed", ["error", "skip"])
def test_a_file_that_is_empty_or_breaks_off_is_refused_whatever_is_skipped(
    tmp_path: Path, content: str, wanted: str, malformed: str
) -> None:
    file = tmp_path / "rows.json"
    file.write_text(content)
    assert wanted in failure(str(file), malformed=malformed)


def test_skipped_rows_are_counted_and_the_good_ones_stay(tmp_path: Path) -> None:
    file = written(tmp_path, row(0), "{broken", row(1, answer=3), row(0), row(2), row(3))
    hotpot = task(file, malformed="skip", limit={"train": 2})
    assert [q.id for q in hotpot.questions("train")] == ["train:q0", "train:q2"]
    said = "\n".join(hotpot.remarks())
    assert "3 rows of train left out" in said
    for part in (":2: bad JSON", ":3: `answer`: got 3", ":4: `_id`"):
        assert part in said
    assert "3 validation questions" not in said
    assert "2 validation questions stand in train too" in said


def test_a_file_of_malformed_rows_alone_is_no_empty_split(tmp_path: Path) -> None:
    assert "2 malformed rows" in failure(written(tmp_path, "{", "{"), malformed="skip")


def test_a_huge_context_is_cut_and_counted(tmp_path: Path) -> None:
    huge = [["Kaal", ["x" * 200_000]], ["Dane", ["never read"]]]
    hotpot = task(written(tmp_path, row(0, context=huge), row(1)), max_context_chars=10_000)
    first, second = hotpot.questions("train")
    assert [(p.title, len(p.text)) for p in passages_of(first)] == [("Kaal", 9_996)]
    assert len(passages_of(second)) == 2
    assert "1 contexts of train are cut at 10000 characters" in "\n".join(hotpot.remarks())


def test_a_context_that_just_fits_is_not_cut(tmp_path: Path) -> None:
    # Kaal 4 + "A town. It is old." 18 + Dane 4 + "A river." 8
    assert not [r for r in task(written(tmp_path, row()), max_context_chars=34).remarks() if "cut" in r]
    cut = task(written(tmp_path, row()), max_context_chars=33)
    assert [r for r in cut.remarks() if "1 contexts of train are cut" in r]
    assert passages_of(cut.questions("train")[0])[1].text == "A river"


def test_a_question_without_paragraphs_can_be_asked_and_finds_nothing() -> None:
    hotpot = task(prompts=BARE)
    asked = Episode(played(hotpot, "Search[a]").question, ("m", "m"), played(hotpot, "Search[a]").completions)
    bare = Episode(type(asked.question)("q", "why?", ""), ("m", "m"), asked.completions)
    turn = hotpot.turn(bare)
    assert turn is not None
    assert "(This search found nothing.)" in turn.messages[-1].content


def test_the_lines_of_a_context_given_by_hand_are_its_paragraphs() -> None:
    asked = Question("asked", "why?", "", "Oram: A hill.\n\nno title here")
    assert passages_of(asked) == (Passage("Oram", "A hill."), Passage("Context", "no title here"))
