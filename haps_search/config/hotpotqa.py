"""The teacher-student task on HotpotQA."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from haps_search.config.base import Config
from haps_search.config.candidates import HubSource, PathSource
from haps_search.config.rewards import NormaliserName


class TfidfRetrieval(Config):
    """Words in common, weighted by how rare they are; needs no model."""

    type: Literal["tfidf"] = "tfidf"


class EncoderRetrieval(Config):
    """Cosine similarity of sentence embeddings, in float32, by any encoder that `transformers` loads."""

    type: Literal["encoder"] = "encoder"
    source: Annotated[HubSource | PathSource, Field(discriminator="type")]
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`."""
    pooling: Literal["mean", "cls"] = "mean"
    """What an encoder was trained for: the mean over tokens, or its first token."""


Retrieval = Annotated[TfidfRetrieval | EncoderRetrieval, Field(discriminator="type")]


class RolePrompt(Config):
    """What one role reads at its turn; `{question}` and `{dialogue}` are filled in, and both are needed."""

    prompt: str
    system: str = ""
    """Empty: no system message."""


class Prompts(Config):
    """A prompt per role. A role that is not named keeps its default."""

    student: RolePrompt = RolePrompt(
        system="You are a student who answers a question with the help of a search. A teacher reads what you do.",
        prompt=(
            "Question: {question}\n\n{dialogue}\n\n"
            "Write `Summary:` and what you know so far. Then write, on a line of its own, either "
            "`Search[words to look for]` or, once you know it, `Finish[the answer in a few words]`."
        ),
    )
    teacher: RolePrompt = RolePrompt(
        system="You are a teacher who watches a student answer a question with the help of a search.",
        prompt=(
            "Question: {question}\n\n{dialogue}\n\n"
            "Begin with `Continue` if the student's last step is right, or with `Rethink` if it is not, and say why "
            "in one sentence. Then write, on a line of its own, `Summary:` and what is known so far."
        ),
    )


class HotpotqaTask(Config):
    """A student searches the question's own paragraphs and answers; a teacher says continue or rethink."""

    type: Literal["hotpotqa"] = "hotpotqa"
    description: str = "Answer questions that need facts from several paragraphs, by searching and reasoning."
    train: str
    """Files in HotpotQA's own format, a JSON array or JSONL, relative to the working directory or absolute."""
    validation: str
    test: str | None = None
    limit: dict[Literal["train", "validation", "test"], PositiveInt] = {}
    """Use only the first so many questions of a split."""
    malformed: Literal["error", "skip"] = "error"
    """`skip` leaves malformed rows out, and says how many there were."""
    max_context_chars: PositiveInt = 20_000
    """Longer contexts are cut at the end, and counted."""
    search_budget: NonNegativeInt = 3
    """Searches of one episode; then the student is told to finish."""
    max_student_turns: PositiveInt = 6
    """Turns of the student in one episode; the teacher speaks between them."""
    passages_per_search: PositiveInt = 2
    retrieval: Retrieval = TfidfRetrieval()
    prompts: Prompts = Prompts()
    normaliser: NormaliserName = "v1"
    """How answers and references are compared, as `normaliser` of `type: qa`'s rewards. `v1` is HotpotQA's own script
    but for answers that are nothing but an article or punctuation, and what all results here were scored with."""
