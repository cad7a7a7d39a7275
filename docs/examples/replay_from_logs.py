"""A router from logs: what models earned and cost on each question, and no GPU.

Run it whole (`python docs/examples/replay_from_logs.py`, under a minute) or cell by cell; `--small` shortens the sweep.
"""

# %% Logs
# A line per question: its text, what each model earned in [0, 1], and what the answer cost. Yours come from a log;
# these are made up: one model is good at code, one at law, and a dear one is good at both.
import json
import random
import sys
from pathlib import Path

import haps_search as haps

SMALL = "--small" in sys.argv
MODELS, COSTS = ("coder", "lawyer", "large"), (0.1, 0.1, 1.0)
WORDS = {"code": ("function", "loop", "compile", "pointer"), "law": ("contract", "appeal", "statute", "tort")}
draw, table = random.Random(0), Path("logs.jsonl")
with table.open("w") as file:
    for number in range(600):
        kind = draw.choice(list(WORDS))
        text = f"{' '.join(draw.choices(WORDS[kind], k=6))} {number}"
        chances = {"coder": 0.9 if kind == "code" else 0.3, "lawyer": 0.9 if kind == "law" else 0.3, "large": 0.85}
        scores = {model: float(draw.random() < chances[model]) for model in MODELS}
        line = {"id": str(number), "task": kind, "split": "train", "query": text, "scores": scores}
        file.write(json.dumps(line | {"cost": dict(zip(MODELS, COSTS, strict=True))}) + "\n")

# %% Is this pool worth routing?
inspection = haps.inspect(table)
print("\n".join(inspection.report.verdict.sentences))

# %% Search a router
study = haps.make_study(
    {
        "name": "logs",
        "experiment": {
            "task": {"type": "replay", "table": {"file": str(table.absolute())}},
            "candidates": [{"name": model, "source": {"type": "table"}} for model in MODELS],
            "routing": {
                "prompt": "question",
                "backbone": {"type": "features", "features": [{"type": "tfidf", "dimensions": 32}]},
                "low_level": {"type": "none"},
            },
            "learning": {"signal": "outcomes", "cost_weight": 0.1},
            "run": {"steps": 60, "questions_per_step": 128, "validation": {"every": 20, "questions": 500}},
        },
        "space": {
            "learning.learning_rate.high": {"type": "log", "low": 1e-3, "high": 3e-2},
            "routing.backbone.hidden": {"type": "choice", "values": [[], [32]]},
        },
        "sweep": {"trials": 2 if SMALL else 8},
        "tracking": {"mlflow": False},
    }
)
result = haps.sweep(study, name="logs", report=lambda event: print(getattr(event, "text", "")))
print(result.comparison)

# %% Judge it beside all references, on questions that nothing has seen
judged = haps.evaluate("logs", split="test")
print(judged.rows)
for verdict in judged.judgement.verdicts:
    print(verdict.sentence)

# %% Whom to ask, when cost weighs more or less
run = haps.load_run("logs")
print(run.route(["compile the loop", "the contract and the statute"]).frame)
