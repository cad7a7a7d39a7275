"""Split a JSONL file of questions 60/20/20 by a hash of their text, so that equal texts stay together.

python docs/split_questions.py questions.jsonl FOLDER [--text question] [--most train=600 test=400]
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from haps_search.tasks.tables.splits import folds

SPLITS = ("train", "train", "train", "validation", "test")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("questions", type=Path)
parser.add_argument("folder", type=Path)
parser.add_argument("--text", default="question", help="the field with the question's text")
parser.add_argument("--most", nargs="+", default=[], help="SPLIT=NUMBER: at most so many of them, drawn with seed 0")
given = parser.parse_args()
most = {split: int(number) for split, number in (each.split("=") for each in given.most)}

lines = [line for line in given.questions.read_text().splitlines() if line.strip()]
parts = folds([json.loads(line)[given.text] for line in lines], len(SPLITS))
given.folder.mkdir(parents=True, exist_ok=True)
for split in dict.fromkeys(SPLITS):
    own = [line for line, part in zip(lines, parts, strict=True) if SPLITS[part] == split]
    random.Random(0).shuffle(own)  # files are often sorted by task
    own = own[: most.get(split)]
    (given.folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in own))
    print(f"{split}: {len(own)} questions")
