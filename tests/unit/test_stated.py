"""Where a chat answer states its answer."""

from __future__ import annotations

import pytest

from haps_search.tasks.stated import read_stated


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Paris", "Paris"),
        ("It is Paris, I think.", "It is Paris, I think."),
        ("The answer is Paris.", "Paris"),
        ("So the final answer to this is: J. K. Rowling. She wrote it in 1997.", "J. K. Rowling"),
        ("Answer:\n\nSt. Petersburg\n\nIt was the capital.", "St. Petersburg"),
        (r"Hence $\boxed{\text{oxygen}}$.", "oxygen"),
        ("<scratchpad>Rome?</scratchpad><answer>Oslo</answer>", "Oslo"),
        ("<respuesta>Lima</respuesta>", "Lima"),
        ('```json\n{"reason": "the answer is long", "final_answer": "Zurich"}\n```', "Zurich"),
        ('{"antwort": 42}', "42"),
        ('{"answer": ["Paris"]}', "Paris"),
        ('{"answer": [\n  "red",\n  "blue"\n]}', "red and blue"),
        ("{'answer': ['St. Ives']}", "St. Ives"),
        ('{"answer": [42]}', "42"),
        ("The answer is Mt. Everest. It is in Asia.", "Mt. Everest"),
        ("Answer: Sgt. Pepper", "Sgt. Pepper"),
        ("The answer is Ft. Worth.", "Ft. Worth"),
        ("The answer is approx. 5 miles. More or less.", "approx. 5 miles"),
        ("The answer is Warner Bros. Pictures. It made the film.", "Warner Bros. Pictures"),
        ("The answer is Apple Inc. It made the phone.", "Apple Inc"),
        ("The answer is No. 5. It is a perfume.", "No. 5"),
        ("The answer is No. Rome is larger.", "No"),
        ("steps\n#### 42", "42"),
        ("因此，答案是李白。", "李白"),
        ("Respuesta: el telescopio. No es el microscopio.", "el telescopio"),
        ("No answer is given in the text.", "No answer is given in the text."),
        ("The answer is not in the text.", "The answer is not in the text."),
        ("<think>The answer is Rome</think>Oslo", "Oslo"),
        ("Rome or so </think> Oslo", "Oslo"),
        ("<think>Long.\n\nFinal Answer: Oslo", "Oslo"),
    ],
)
def test_the_stated_answer_or_the_whole_text(text: str, answer: str) -> None:
    parsed = read_stated(text)
    assert parsed.answer == answer
    assert parsed.stated == ()


def test_the_last_one_counts_and_all_are_known() -> None:
    parsed = read_stated("The answer is Rome. No: the answer is Oslo.")
    assert (parsed.answer, parsed.stated) == ("Oslo", ("Rome", "Oslo"))
    assert read_stated("Answer: Rome. Answer: rome").stated == ()


def test_thinking_alone_says_nothing() -> None:
    assert read_stated("<think>Rome").failure == "nothing is said after the thinking"
