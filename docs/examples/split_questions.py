"""Split a JSONL file of questions 60/20/20 by a hash of their text, so that equal texts stay together.

python docs/examples/split_questions.py questions.jsonl FOLDER [--text question] [--train 600]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from haps_search.tasks.tables.splits import folds

SPLITS = ("train", "train", "train", "validation", "test")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("questions", type=Path)
parser.add_argument("folder", type=Path)
parser.add_argument("--text", default="question", help="the field with the question's text")
parser.add_argument("--train", type=int, help="at most so many training questions")
given = parser.parse_args()

lines = [line for line in given.questions.read_text().splitlines() if line.strip()]
parts = folds([json.loads(line)[given.text] for line in lines], len(SPLITS))
given.folder.mkdir(parents=True, exist_ok=True)
for split in dict.fromkeys(SPLITS):
    own = [line for line, part in zip(lines, parts, strict=True) if SPLITS[part] == split]
    own = own[: given.train] if split == "train" else own
    (given.folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in own))
    print(f"{split}: {len(own)} questions")
