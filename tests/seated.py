"""A driver of its own: opens the session of a study, and writes which candidates sit on which node."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from haps_search.config.load import load_study
from haps_search.engines.cluster.session import session
from haps_search.verbs.driver import profile_of


def main(study_file: str, out: Path) -> None:
    study = load_study(study_file, [])
    profile = profile_of(study)
    candidates = study.experiment.candidates
    seats = sum(profile.workers_of(c.name) for c in candidates)
    found: dict[str, list[str]] = {}
    with session("seated", candidates, profile, out.parent / "logs") as live:
        live.wait_for_candidates()
        while len(workers := live.status()["workers"]) < seats:
            time.sleep(0.2)
        for worker in workers.values():
            found.setdefault(worker["node"], []).append(worker["candidate"])
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
