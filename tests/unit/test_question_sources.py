"""Questions as people have them: every format, paths, templates, filters, known data sets without fields, chats."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from haps_search.config.anchors import anchored
from haps_search.config.load import parse_study
from haps_search.config.tasks import QaTask as Config
from haps_search.errors import ConfigError, DataError, PoolError
from haps_search.tasks import question_sources
from haps_search.tasks.qa import QaTask
from haps_search.types import Episode, Question

CHOICE: dict[str, Any] = {"reward": {"type": "multiple_choice"}, "prompt": "{question}\n{choices}"}
Rows = Sequence[Mapping[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(list(rows), indent=1))
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
        case _:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(rows)
    return path


def a_task(source: Any, **settings: Any) -> QaTask:
    source = str(source) if isinstance(source, Path) else source
    return QaTask(Config.model_validate({"train": source, "validation": source, **settings}))


def read(source: Any, **settings: Any) -> Sequence[Question]:
    return a_task(source, **settings).questions("train")


def failure(source: Any, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(source, **settings)
    return str(caught.value)


PLAIN = [{"id": f"q{i}", "question": f"What is {i}?", "reference": f"r{i}"} for i in range(3)]


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.csv", "t.tsv", "t.parquet"])
def test_every_format_has_the_same_questions(tmp_path: Path, name: str) -> None:
    found = read(write(tmp_path / name, PLAIN))
    assert found == tuple(Question(f"train:q{i}", f"What is {i}?", f"r{i}") for i in range(3))


@pytest.mark.parametrize(
    ("name", "place"), [("t.json", ":12 (row 3)"), ("t.jsonl", ":3"), ("t.csv", ":4"), ("t.parquet", ": row 3")]
)
def test_a_malformed_row_is_named_by_its_place_in_every_format(tmp_path: Path, name: str, place: str) -> None:
    file = write(tmp_path / name, [*PLAIN[:2], {**PLAIN[2], "question": None}])
    assert failure(file) == f"{file}{place}: `question`: got null, needs text that is not empty"


NESTED = [
    {"nr": i, "premise": f"It rains {i}", "hypothesis": "It is wet", "answers": {"text": ["yes", "Yes."], "start": [1]},
     "level": "hard" if i % 2 else "easy", "grade": i}
    for i in range(6)
]  # fmt: skip
NESTED_FIELDS = {"id": "nr", "question": "{premise}. {hypothesis}? ({grade})", "reference": "answers.text"}


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_paths_and_templates_reach_into_rows(tmp_path: Path, name: str) -> None:
    found = read(write(tmp_path / name, NESTED), fields=NESTED_FIELDS)
    assert found[1].text == "It rains 1. It is wet? (1)"
    assert (found[1].id, found[1].reference, found[1].references) == ("train:1", "yes", ("yes", "Yes."))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"reference": "answers.txt"}, "`answers.txt`: got no such field (did you mean `text`), needs it or another"),
        ({"reference": "answer.text"}, "`answer.text`: got no such field"),
        ({"question": "{premis}"}, "`premis`: got no such field (did you mean `premise`)"),
        ({"question": "{answers}"}, "`answers`: got {"),
        ({"reference": "answers.start"}, "`answers.start[0]`: got 1, needs text that is not empty"),
    ],
)
def test_what_a_path_does_not_reach_is_named(tmp_path: Path, fields: Mapping[str, str], said: str) -> None:
    file = write(tmp_path / "t.jsonl", NESTED[:1])
    assert f"{file}:1: {said}" in failure(file, fields=NESTED_FIELDS | fields)


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet"])
def test_filters_and_limits_choose_rows(tmp_path: Path, name: str) -> None:
    rows = [{**row, "grade": i, "level": "hard" if i % 2 else "easy"} for i, row in enumerate([*PLAIN, *PLAIN, *PLAIN])]
    rows = [{**row, "id": f"q{i}"} for i, row in enumerate(rows)]
    file = write(tmp_path / name, rows)
    assert [q.id for q in read(file, where={"level": "hard"})] == [f"train:q{i}" for i in (1, 3, 5, 7)]
    assert [q.id for q in read(file, where={"level": "hard", "grade": [3, 5]})] == ["train:q3", "train:q5"]
    assert [q.id for q in read(file, where={"level": "hard"}, limit={"train": 2})] == ["train:q1", "train:q3"]
    assert "no row is kept by task.where" in failure(file, where={"level": "medium"})
    assert "`lvl`: got no such field" in failure(file, where={"lvl": "hard"})


SQUAD = {
    "version": "v2.0",
    "data": [
        {"title": "Oram", "paragraphs": [
            {"context": "Mount Oram is 2104 metres high.", "qas": [
                {"id": "a", "question": "How high is Oram?", "is_impossible": False,
                 "answers": [{"text": "2104 metres", "answer_start": 14}, {"text": "2104", "answer_start": 14},
                             {"text": "2104", "answer_start": 14}]},
                {"id": "b", "question": "How old is it?", "is_impossible": True, "answers": []}]},
            {"context": "The Velm is a river.", "qas": [
                {"id": "c", "question": "What is the Velm?", "answers": [{"text": "a river", "answer_start": 12}]}]}]},
        {"title": "Dane", "paragraphs": [{"context": "Dane.", "qas": [
            {"id": "d", "question": "Who?", "answers": [{"text": "Dane", "answer_start": 0}]}]}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("indent", [None, 2])
def test_squads_own_json_needs_no_fields(tmp_path: Path, indent: int | None) -> None:
    file = tmp_path / "dev-v2.0.json"
    file.write_text(json.dumps(SQUAD, indent=indent))
    task = a_task(file)
    found = task.questions("train")
    assert [q.id for q in found] == ["train:a", "train:c", "train:d"]
    assert found[0].references == ("2104 metres", "2104")
    assert found[0].context == "Mount Oram is 2104 metres high."
    turn = task.turn(Episode(found[1], ("m",)))
    assert turn is not None
    assert turn.messages[-1].content == "The Velm is a river.\n\nQuestion: What is the Velm?\nAnswer:"
    assert any("1 rows of train left out" in line and '"b" is unanswerable' in line for line in task.remarks())


def test_the_hubs_squad_is_the_same(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "context": "High.", "question": "How?", "answers": {"text": ["x", "y"], "start": [0, 1]}},
        {"id": "b", "context": "High.", "question": "Why?", "answers": {"text": [], "start": []}},
    ]  # fmt: skip
    (only,) = read(write(tmp_path / "t.parquet", rows))
    assert (only.id, only.context, only.references) == ("train:a", "High.", ("x", "y"))


@pytest.mark.parametrize("hub", [False, True])
def test_hotpotqa_needs_no_fields(tmp_path: Path, hub: bool) -> None:
    facts: Any = [["Oram", ["It is high. ", "It is old."]], ["Velm", ["A river."]]]
    own = {"_id": "h", "question": "Which?", "answer": "Oram", "supporting_facts": [["Oram", 0]], "context": facts}
    columns = {"title": ["Oram", "Velm"], "sentences": [["It is high. ", "It is old."], ["A river."]]}
    row = {**own, "id": "h", "context": columns} if hub else own
    (only,) = read(write(tmp_path / "t.jsonl", [row]))
    assert (only.id, only.reference) == ("train:h", "Oram")
    assert only.context == "Oram: It is high. It is old.\nVelm: A river."


def test_triviaqa_counts_every_alias(tmp_path: Path) -> None:
    answer = {"value": "Sunset Blvd", "aliases": ["Sunset Blvd", "Sunset Boulevard"], "normalized_aliases": ["x"]}
    (only,) = read(write(tmp_path / "t.parquet", [{"question": "Which?", "question_id": "tc_1", "answer": answer}]))
    assert (only.id, only.references) == ("train:tc_1", ("Sunset Blvd", "Sunset Boulevard"))
    own = {
        "Data": [{"Question": "Which?", "QuestionId": "tc_1", "Answer": {"Value": "Sunset", "Aliases": ["Sunset B"]}}]
    }
    (tmp_path / "own.json").write_text(json.dumps(own, indent=4))
    (only,) = read(tmp_path / "own.json")
    assert (only.id, only.references) == ("train:tc_1", ("Sunset", "Sunset B"))


OPTIONS = {"text": ["ice", "fire", "snow"], "label": ["1", "2", "3"]}
LISTED = [{"text": text, "label": label} for text, label in zip(*OPTIONS.values(), strict=True)]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Hot?", "choices": OPTIONS, "answerKey": "2"},
        {"question": {"stem": "Hot?", "choices": LISTED}, "answerKey": "2"},
        {"question_stem": "Hot?", "choices": {**OPTIONS, "label": ["A", "B", "C"]}, "answerKey": "B"},
    ],
)
def test_arc_and_its_like_need_no_fields(tmp_path: Path, row: Mapping[str, Any]) -> None:
    (chosen,) = read(write(tmp_path / "t.jsonl", [{"id": "m", **row}]), **CHOICE)
    assert (chosen.id, chosen.text, chosen.reference) == ("train:m", "Hot?", "B")
    assert chosen.attributes["choices"] == ("ice", "fire", "snow")
    (worded,) = read(tmp_path / "t.jsonl")
    assert worded.reference == "fire", "in words where the reward reads words"


@pytest.mark.parametrize("kind", ["number", "letter", "columns", "headerless"])
def test_mmlu_needs_no_fields(tmp_path: Path, kind: str) -> None:
    options = ["ice", "fire", "snow", "B"]
    rows: Rows = {
        "number": [{"question": "Hot?", "subject": "physics", "choices": options, "answer": 1}],
        "letter": [{"question": "Hot?", "choices": options, "answer": "B"}],
        "columns": [{"question": "Hot?", **dict(zip("ABCD", options, strict=True)), "answer": "B"}],
        "headerless": [],
    }[kind]
    file = tmp_path / ("t.csv" if kind in ("columns", "headerless") else "t.parquet")
    if kind == "headerless":
        file.write_text("Hot?,ice,fire,snow,B,B\nCold?,a,b,c,d,A\n")
    else:
        write(file, rows)
    found = read(file, **CHOICE)
    assert len(found) == (2 if kind == "headerless" else 1)
    # A label, though an option has its letter as text.
    assert (found[0].text, found[0].reference) == ("Hot?", "B")
    assert found[0].attributes["choices"][1] == "fire"


def test_an_option_that_is_not_there_is_named(tmp_path: Path) -> None:
    rows = [{"question": f"Q{a}?", "choices": ["x", "y"], "answer": a} for a in (0, 2)]
    assert "row 2: `answer`: got 2, needs 0 to 1" in failure(write(tmp_path / "t.parquet", rows), **CHOICE)
    arc = [{"question": "Q?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "C"}]
    assert 'got "C", and the labels A, B for 2 options' in failure(write(tmp_path / "t.jsonl", arc), **CHOICE)


def test_gsm8k_needs_no_fields(tmp_path: Path) -> None:
    rows = [
        {"question": "How many?", "answer": "3 + 4 = <<3+4=7>>7\n#### 1,007"},
        {"question": "And?", "answer": "#### -3"},
    ]
    found = read(write(tmp_path / "t.jsonl", rows))
    assert [(q.id, q.reference) for q in found] == [("train:1", "1007"), ("train:2", "-3")]


def test_a_list_of_answers_is_several_references(tmp_path: Path) -> None:
    """Natural Questions, as `nq_open` has it."""
    (only,) = read(write(tmp_path / "t.jsonl", [{"question": "who?", "answer": ["Ada", "Ada Lovelace"]}]))
    assert only.references == ("Ada", "Ada Lovelace")


def test_a_row_unlike_the_first_is_malformed(tmp_path: Path) -> None:
    rows = [
        {"question": "Q?", "answer": {"value": "x", "aliases": []}, "question_id": "1"},
        {"question": "R?", "answer": 3},
    ]
    assert ":2: got {" in failure(write(tmp_path / "t.jsonl", rows))
    assert "needs a row of TriviaQA like the first one" in failure(tmp_path / "t.jsonl")


def test_fields_that_are_named_are_not_guessed(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", [{"question": "Q?", "answer": "#### 3"}])
    (only,) = read(file, fields={"id": None, "reference": "answer"})
    assert only.reference == "#### 3"


def test_multiple_choice_of_rows_without_options_is_refused(tmp_path: Path) -> None:
    assert "multiple_choice needs task.fields.choices" in failure(write(tmp_path / "t.jsonl", PLAIN), **CHOICE)


def test_options_may_have_columns_of_their_own(tmp_path: Path) -> None:
    rows = [{"q": "Hot?", "one": "ice", "two": "fire", "key": "fire"}]
    fields = {"id": None, "question": "q", "reference": "key", "choices": ["one", "two"]}
    (only,) = read(write(tmp_path / "t.csv", rows), fields=fields, **CHOICE)
    assert (only.reference, only.attributes["choices"]) == ("B", ("ice", "fire"))
    cell = [{"q": "Hot?", "options": '["ice", "fire"]', "key": "B"}]
    fields = {"id": None, "question": "q", "reference": "key", "choices": "options"}
    (only,) = read(write(tmp_path / "c.csv", cell), fields=fields, **CHOICE)
    assert only.attributes["choices"] == ("ice", "fire")


CHAT = [
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": [{"type": "text", "text": "And + 1?"}]},
    {"role": "assistant", "content": "3"},
]


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_chats_need_no_fields_and_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    task = a_task(write(tmp_path / name, [{"messages": CHAT}]), system="Be brief.")
    (only,) = task.questions("train")
    assert (only.text, only.reference, only.id) == ("And + 1?", "3", "train:1")
    turn = task.turn(Episode(only, ("m",)))
    assert turn is not None
    assert [(m.role, m.content) for m in turn.messages] == [
        ("system", "Be brief."), ("user", "What is 1 + 1?"), ("assistant", "2"), ("user", "And + 1?"),
    ]  # fmt: skip


def test_a_chats_own_system_message_stays_and_its_reference_may_stand_beside_it(tmp_path: Path) -> None:
    rows = [{"talk": [{"role": "developer", "content": "Own."}, CHAT[0]], "gold": ["2", "two"]}]
    task = a_task(
        write(tmp_path / "t.jsonl", rows), fields={"id": None, "messages": "talk", "reference": "gold"}, system="Mine."
    )
    (only,) = task.questions("train")
    assert only.references == ("2", "two")
    turn = task.turn(Episode(only, ("m",)))
    assert turn is not None
    assert [m.content for m in turn.messages] == ["Own.", "What is 1 + 1?"]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "`messages`: got [], needs a list of messages"),
        ([{"role": "tool", "content": "x"}], "`messages[0]`: got {"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "`messages[0].content`: got ["),
        ([{"role": "user", "content": " "}], "needs text that is not empty"),
        ([{"role": "assistant", "content": "x"}], "got no message of the user at the end"),
        ([CHAT[1], CHAT[1]], "got no message of the user at the end"),
    ],
)
def test_chats_that_ask_nothing_are_refused(tmp_path: Path, messages: Any, said: str) -> None:
    file = write(tmp_path / "t.jsonl", [{"messages": messages}])
    assert said in failure(file, fields={"id": None, "messages": "messages"})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder as `save_to_disk` writes it, whose answers are class labels."""
    features = Features(
        {"question": Value("string"), "subject": Value("string"), "choices": List(Value("string")),
         "answer": ClassLabel(names=["A", "B", "C", "D"])}
    )  # fmt: skip
    rows = [
        {"question": f"Q{i}?", "subject": "law" if i % 2 else "art", "choices": list("wxyz"), "answer": i % 4}
        for i in range(8)
    ]
    made = Dataset.from_list(rows, features=features)
    DatasetDict({"train": made, "dev": made.select(range(3))}).save_to_disk(tmp_path / "saved")
    made.save_to_disk(tmp_path / "single")
    return tmp_path / "saved"


def test_a_folder_of_datasets_needs_no_fields(saved: Path) -> None:
    task = a_task(saved, **CHOICE)
    found = task.questions("train")
    assert [q.reference for q in found] == list("ABCDABCD")
    assert found[0].attributes["choices"] == tuple("wxyz")
    again = QaTask(
        Config.model_validate({"train": str(saved), "validation": {"folder": str(saved), "split": "dev"}, **CHOICE})
    )
    assert len(again.questions("validation")) == 3
    assert len(read(saved.with_name("single"), where={"subject": "law"}, **CHOICE)) == 4


def test_class_labels_are_read_by_their_names(tmp_path: Path) -> None:
    features = Features(
        {"id": Value("int64"), "question": Value("string"), "reference": ClassLabel(names=["no", "yes"])}
    )
    rows = [{"id": i, "question": f"Q{i}?", "reference": i - 1} for i in (1, 2, 0)]
    Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "labelled")
    assert [q.reference for q in read(tmp_path / "labelled", limit={"train": 2})] == ["no", "yes"]
    # A label of -1 is unknown.
    assert "row 3: `reference`: got null" in failure(tmp_path / "labelled")


def test_splits_and_folders_that_are_not_there_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`.*saved` has no split validation \(it has train, dev\)"):
        a_task(saved, **CHOICE).questions("validation")
    with pytest.raises(ConfigError, match="is one data set without splits"):
        read({"folder": str(saved.with_name("single")), "split": "dev"}, **CHOICE)
    with pytest.raises(ConfigError, match=r"task\.train: no file `nowhere`"):
        a_task({"folder": "nowhere"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"not a folder that `Dataset\.save_to_disk` wrote"):
        read(tmp_path / "empty")


def test_a_data_set_of_the_hub_is_read_by_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library takes a folder of files for a hub's name, which needs no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "hub").mkdir()
    write(tmp_path / "hub" / "train.jsonl", PLAIN)
    write(tmp_path / "hub" / "test.jsonl", PLAIN[:1])
    hub = {"hub": str(tmp_path / "hub")}
    task = QaTask(Config.model_validate({"train": hub, "validation": {**hub, "split": "test"}}))
    assert [q.id for q in task.questions("train")] == ["train:q0", "train:q1", "train:q2"]
    assert [q.id for q in task.questions("validation")] == ["validation:q0"]
    with pytest.raises(ConfigError, match=r"task\.validation: cannot read split validation of"):
        QaTask(Config.model_validate({"train": hub, "validation": hub})).questions("validation")


def test_a_hub_that_does_not_answer_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", down)
    with pytest.raises(PoolError, match=r"`cais/mmlu \(law\)` cannot be fetched \(no route"):
        read({"hub": "cais/mmlu", "config": "law", "split": "test"})


def test_without_the_library_the_extra_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question_sources.importlib.util, "find_spec", lambda name: None)
    for source in (str(saved), {"folder": str(saved)}, {"hub": "cais/mmlu"}):
        with pytest.raises(ConfigError, match=r"pip install haps-search\[datasets\]"):
            a_task(source)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"split": "test"}, "got neither of hub and folder, needs one of them"),
        ({"hub": "a", "folder": "b"}, "got both of hub and folder"),
        ({"folder": "b", "revision": "c"}, "got one for a folder, which has none"),
        ({"hub": "a", "confg": "b"}, r"train\.confg: unknown key; did you mean config\?"),
        (5, "got 5, needs texts, or a mapping with hub, folder, config"),
    ],
)
def test_sources_that_cannot_be_are_refused(train: Any, said: str) -> None:
    task = {"type": "qa", "train": train, "validation": "b.csv"}
    candidates = [{"name": m, "source": {"type": "zoo", "name": m}} for m in ("adder", "sorter")]
    with pytest.raises(ConfigError, match=said):
        parse_study({"name": "s", "experiment": {"task": task, "candidates": candidates}})


def test_folders_of_a_study_become_absolute_and_names_of_the_hub_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    task = {"type": "qa", "train": {"folder": "a"}, "validation": "b.csv", "test": {"hub": "cais/mmlu"}}
    experiment = {
        "task": task,
        "candidates": [{"name": m, "source": {"type": "zoo", "name": m}} for m in ("adder", "sorter")],
    }
    found = anchored(parse_study({"name": "s", "experiment": experiment})).experiment.task
    assert found.type == "qa"
    assert found.train == Config.model_validate({"train": {"folder": f"{tmp_path}/a"}, "validation": "b"}).train
    assert found.validation == f"{tmp_path}/b.csv"
    assert getattr(found.test, "hub", None) == "cais/mmlu"
