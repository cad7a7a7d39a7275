"""The user's JSONL files: what is read, what is refused, what is paid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from qa_tasks import CHOICE, failure, paid, row, task, write

from haps_search.config.tasks import QaFields
from haps_search.config.tasks import QaTask as Config
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.qa import QaTask
from haps_search.types import Episode, Parsed, Question

TINY = Path(__file__).parents[1] / "assets" / "hotpotqa_tiny.jsonl"
HOTPOT = QaFields(id="_id", reference="answer", context="context", supporting="supporting_facts")


def test_hotpotqa_rows_keep_only_supporting_paragraphs() -> None:
    qa = QaTask(Config(train=str(TINY), validation=str(TINY), fields=HOTPOT))
    questions = qa.questions("train")
    assert [q.id for q in questions] == [f"train:tiny{i}" for i in range(8)]
    assert questions[0].reference == "Tessaly"
    assert questions[0].context == (
        "Mount Oram: Mount Oram is a peak in the Velm Range. It is 2104 metres high.\n"
        "Velm Range: The Velm Range is a chain of mountains in northern Tessaly. It was first mapped in 1871."
    )
    # joined by one space whether or not the file's sentences begin with one
    assert "built in 1950. It sank" in questions[6].context


def test_without_the_filter_all_paragraphs_stay() -> None:
    fields = HOTPOT.model_copy(update={"supporting": None})
    qa = QaTask(Config(train=str(TINY), validation=str(TINY), fields=fields))
    assert "Norrsund: Norrsund is a town" in qa.questions("train")[0].context


def test_the_prompt_is_filled_in_one_pass(tmp_path: Path) -> None:
    rows = [row(context="braces {question} and {x}")]
    qa = task(tmp_path, *rows, fields={"context": "context"}, system="Be brief.", prompt="{context}|{question}")
    question = qa.questions("train")[0]
    turn = qa.turn(Episode(question, ("m",)))
    assert turn is not None
    assert [(m.role, m.content) for m in turn.messages] == [
        ("system", "Be brief."),
        ("user", "braces {question} and {x}|What is 0?"),
    ]


def test_an_empty_system_text_and_context_leave_no_trace(tmp_path: Path) -> None:
    qa = task(tmp_path, row(), system="")
    turn = qa.turn(Episode(qa.questions("train")[0], ("m",)))
    assert turn is not None
    assert [m.content for m in turn.messages] == ["Question: What is 0?\nAnswer:"]


def test_long_contexts_are_cut_at_the_end_and_counted(tmp_path: Path) -> None:
    rows = [row(0, context="abcdef"), row(1, context="abcde"), row(2, context=None)]
    qa = task(tmp_path, *rows, fields={"context": "context"}, max_context_chars=5)
    assert [q.context for q in qa.questions("train")] == ["abcde", "abcde", ""]
    assert "warning: 1 contexts of train are cut at 5 characters" in qa.remarks()


def test_a_limit_takes_the_first_questions_and_reads_no_further(tmp_path: Path) -> None:
    qa = task(tmp_path, row(0), "", row(1), "{broken", limit={"train": 2})
    assert [q.reference for q in qa.questions("train")] == ["0", "1"]


def test_rows_without_ids_are_named_by_line(tmp_path: Path) -> None:
    rows = [{"question": "a?", "reference": "b"}, "", {"question": "c?", "reference": "d"}]
    qa = task(tmp_path, *rows, fields={"id": None})
    assert [q.id for q in qa.questions("train")] == ["train:1", "train:3"]


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    qa = task(tmp_path, "\ufeff" + json.dumps(row()))
    assert len(qa.questions("train")) == 1


@pytest.mark.parametrize(
    ("bad", "wanted"),
    [
        ("{bad", ["bad JSON", "needs one object per line"]),
        ("[1, 2]", ["got [1, 2]", "needs a JSON object"]),
        ({"id": "x", "question": "q?"}, ["`reference`", "no such field (the row has id, question)"]),
        ({"id": "x", "Question": "q?"}, ["`question`", "did you mean `Question`"]),
        ({"question": "q?", "reference": "r"}, ["`id`", "task.fields.id: null"]),
        (row(1, question="  "), ["`question`", 'got "  "', "text that is not empty"]),
        (row(1, reference=42), ["`reference`", "got 42", "needs text"]),
        (row(1, reference=None), ["`reference`", "got null"]),
        (row(1, id=True), ["`id`", "got true", "text or a whole number"]),
        (row(0), ["`id`", "got `q0`", "line 1"]),
    ],
)
def test_a_malformed_row_names_file_line_and_field(tmp_path: Path, bad: Any, wanted: list[str]) -> None:
    message = failure(tmp_path, row(0), bad)
    for part in [f"{tmp_path}/train.jsonl:2: ", *wanted]:
        assert part in message


@pytest.mark.parametrize(
    ("fields", "values", "wanted"),
    [
        ({"context": "c"}, {"c": 3}, "`c`: got 3, needs text or a list of [title, [sentences]]"),
        ({"context": "c"}, {"c": [["t", "s"]]}, '`c[0]`: got ["t", "s"], needs [title, [sentences]]'),
        ({"context": "c", "supporting": "s"}, {"c": "text", "s": []}, "needs a list of [title, [sentences]]"),
        ({"context": "c", "supporting": "s"}, {"c": [["t", ["x"]]], "s": [["u", 0]]}, "got titles (u)"),
        ({"context": "c", "supporting": "s"}, {"c": [["t", ["x"]]], "s": "t"}, '`s`: got "t", needs a list'),
        ({"choices": "o"}, {"o": "yes"}, '`o`: got "yes", needs a list of 2 to 26 different texts'),
        ({"choices": "o"}, {"o": ["x", "x"]}, "different texts"),
        ({"choices": "o"}, {"o": ["x", "y"]}, '`reference`: got "0", needs one of the choices or A to B'),
    ],
)
def test_malformed_contexts_and_choices(tmp_path: Path, fields: Any, values: Any, wanted: str) -> None:
    assert wanted in failure(tmp_path, row(**values), fields=fields)


def test_an_empty_file_and_broken_encoding_are_refused(tmp_path: Path) -> None:
    assert "needs one JSON object per line" in failure(tmp_path, "")
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    qa = task(tmp_path, row(), validation=str(tmp_path / "latin.jsonl"))
    with pytest.raises(DataError, match=r"latin\.jsonl:1: .*UTF-8"):
        qa.questions("validation")


def test_problems_are_collected_up_to_ten(tmp_path: Path) -> None:
    assert failure(tmp_path, "x", row(), "y").count("bad JSON") == 2
    message = failure(tmp_path, *["x"] * 30)
    assert message.startswith("10 malformed rows, and perhaps more")
    assert message.count("bad JSON") == 10


def test_all_configuration_problems_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        task(
            tmp_path, row(), validation="missing.jsonl", prompt="?", reward={"type": "multiple_choice"},
            fields={"supporting": "s"},
        )  # fmt: skip
    assert len(caught.value.problems) == 5
    with pytest.raises(ConfigError, match="no regular expression"):
        task(tmp_path, row(), reward={"type": "regex", "pattern": "("})


def test_a_missing_test_split_says_how_to_set_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.test: .*set `test: FILE\.jsonl`"):
        task(tmp_path, row()).questions("test")


def test_questions_of_two_splits_are_counted_not_refused(tmp_path: Path) -> None:
    other = write(tmp_path / "other.jsonl", row(7, question="what is  0"), row(8))
    qa = task(tmp_path, row(0), row(1), validation=other)
    assert qa.remarks() == ["warning: 1 validation questions stand in train too; rewards there will flatter"]


def test_rewards_f1_and_exact(tmp_path: Path) -> None:
    f1 = task(tmp_path, row(reference="the Kaal"))
    assert paid(f1.questions("train")[0], f1, " Kaal district\n") == pytest.approx(2 / 3)
    exact = task(tmp_path, row(reference="the Kaal"), reward={"type": "exact"})
    assert paid(exact.questions("train")[0], exact, "Kaal.") == 1.0
    assert paid(exact.questions("train")[0], exact, "Kaal district") == 0.0


def test_an_empty_text_is_a_failed_parse_and_earns_nothing(tmp_path: Path) -> None:
    qa = task(tmp_path, row())
    assert qa.parse(qa.questions("train")[0], "answerer", " \n") == Parsed(None, "the text is empty")
    assert paid(qa.questions("train")[0], qa, " \n") == 0.0


def test_reward_regex(tmp_path: Path) -> None:
    qa = task(tmp_path, row(reference="42"), reward={"type": "regex", "pattern": r"#### *(\d+)"})
    question = qa.questions("train")[0]
    assert paid(question, qa, "40 + 2, so #### 42") == 1.0
    assert paid(question, qa, "42") == 0.0
    assert qa.parse(question, "answerer", "42").failure is not None


@pytest.mark.parametrize("reference", ["B", "Velm"])
def test_reward_multiple_choice(tmp_path: Path, reference: str) -> None:
    qa = task(tmp_path, row(reference=reference, options=["Oram", "Velm", "Dane"]), **CHOICE)
    question = qa.questions("train")[0]
    turn = qa.turn(Episode(question, ("m",)))
    assert turn is not None
    assert turn.messages[-1].content == "What is 0?\nA. Oram\nB. Velm\nC. Dane"
    assert [paid(question, qa, text) for text in ("B", "it is Velm", "(A)", "Velm or Dane")] == [1, 1, 0, 0]


def test_a_question_asked_by_hand_has_no_options_and_is_answered_in_words(tmp_path: Path) -> None:
    qa = task(tmp_path, row(reference="A", options=["Oram", "Velm"]), **CHOICE)
    assert qa.parse(Question("asked", "Which?", ""), "answerer", " Velm ") == Parsed("Velm")


def _function_task(folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, body: str) -> QaTask:
    (folder / f"{module}.py").write_text(f"def score(question, answer):\n    {body}\n")
    monkeypatch.syspath_prepend(str(folder))
    return task(folder, row(), reward={"type": "function", "function": f"{module}:score"})


def test_the_users_own_function_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "return len(answer) / 10 if question.reference == '0' else 1.0"
    qa = _function_task(tmp_path, monkeypatch, "own_reward_pays", body)
    assert paid(qa.questions("train")[0], qa, "four") == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("module", "body", "wanted"),
    [
        ("own_reward_large", "return 1.5", "got 1.5 (float)"),
        ("own_reward_none", "return None", "got None (NoneType)"),
        ("own_reward_nan", "return float('nan')", "got nan (float)"),
        ("own_reward_fails", "return 1 / 0", "failed on question train:q0 with ZeroDivisionError"),
    ],
)
def test_a_bad_result_names_function_and_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, body: str, wanted: str
) -> None:
    qa = _function_task(tmp_path, monkeypatch, module, body)
    with pytest.raises(DataError) as caught:
        paid(qa.questions("train")[0], qa, "x")
    for part in (wanted, f"{module}:score", "train:q0"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("function", "wanted"),
    [("no_such_module_here:f", "PYTHONPATH"), ("json:nothing", "names nothing"), ("json:__name__", "called")],
)
def test_a_function_that_is_not_there(tmp_path: Path, function: str, wanted: str) -> None:
    qa = task(tmp_path, row(), reward={"type": "function", "function": function})
    with pytest.raises(ConfigError, match=wanted):
        paid(qa.questions("train")[0], qa, "x")
