"""Questions, a reward and models of your own, without a YAML file.

Run it whole (`python docs/examples/own_questions.py`) or cell by cell; `--small` shortens the run.
"""

# %% Questions and what an answer earns
import random
import sys

import haps_search as haps

SMALL = "--small" in sys.argv


def questions(count: int, seed: int) -> list[haps.Question]:
    """Sums of two numbers; each seed has numbers of its own, so that no question stands in two splits."""
    draw = random.Random(seed)
    pairs = draw.sample([(a, b) for a in range(seed, 100, 3) for b in range(10, 60)], count)
    return [haps.Question(f"{seed}-{a}-{b}", f"{a}+{b}=", str(a + b)) for a, b in pairs]


def closeness(question: haps.Question, answer: str) -> float:
    """1 for the right number, less the further it is away; a text without a number earns nothing."""
    digits = "".join(c for c in answer if c.isdigit())
    wanted = int(question.reference)
    return max(0.0, 1 - abs(int(digits) - wanted) / wanted) if digits else 0.0


task = haps.QuestionTask(
    {"train": questions(200, 0), "validation": questions(100, 1), "test": questions(100, 2)},
    closeness,
    name="sums",
    prompt="{question}",
)

# %% Models
# The embedded LMs stand here so that this runs anywhere. An LLM of the hub is
# {"name": "llama-8b", "source": {"type": "hub", "repo": "meta-llama/Llama-3.1-8B-Instruct"}, "dtype": "bfloat16"},
# one in a folder {"source": {"type": "path", "path": FOLDER}}.
models = [{"name": name, "source": {"type": "zoo", "name": name}} for name in ("adder", "reverser", "sorter")]
study = haps.make_study(
    {
        "name": "sums",
        "experiment": {
            "task": {"type": "skills"},  # its place is taken by the object that is passed below
            "candidates": models,
            "routing": {
                "prompt": "question",
                "backbone": {"source": {"type": "zoo", "name": "reverser"}},
                "low_level": {"type": "none"},
                "lora": {"targets": ["o_proj"], "layers": {"last": 1}},
            },
            "run": {
                "steps": 4 if SMALL else 60,
                "questions_per_step": 16,
                "episodes_per_question": 4,
                "sampling": {"max_new_tokens": 6},
                "validation": {"every": 2 if SMALL else 20, "questions": 100},
            },
            "engine": {"type": "local"},
        },
        "tracking": {"mlflow": False},
    }
)

# %% One run in this process
# `haps.sweep(study, task=task)` searches a space on Ray with the same object.
result = haps.train(study, "sums", task=task, report=lambda event: print(getattr(event, "text", "")))
print(result.history[["reward", "validation_reward"]].dropna().tail())

# %% Whom would it ask?
run = haps.load_run("sums")
print(run.route(["31+17=", "40+44="]).frame)
print(run.evaluate("test", again=True).frame)  # read once is best; run again, this script says that it was read
