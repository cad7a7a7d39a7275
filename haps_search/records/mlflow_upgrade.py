"""Bringing a store that an earlier MLflow made up to date, with a copy kept as it was."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import mlflow.store.db.utils as schema
from alembic.util.exc import CommandError
from sqlalchemy import create_engine

from haps_search.errors import TrackerError
from haps_search.records.mlflow_tracker import BACKEND_ERRORS, latest_schema, schema_of


@dataclass(frozen=True, slots=True)
class Upgrade:
    """From one revision of MLflow's tables to another; `kept` is the copy as it was, None where nothing was to do."""

    before: str
    now: str
    kept: Path | None


def upgrade(database: Path) -> Upgrade:
    """Migrate an sqlite store to the installed MLflow's tables. A kill at any moment leaves the old store or the new.

    Raises:
        TrackerError: no store, one of a later MLflow, or one that cannot be migrated; it is as it was.
    """
    if not database.exists():
        raise TrackerError(f"{database}: no MLflow store here; say where the runs are (--runs)")
    try:
        before, now = schema_of(f"sqlite:///{database}") or "none", latest_schema()
        if before == now:
            return Upgrade(before, now, None)
        aside = database.with_name(f".{database.name}.upgrading")
        _copy(database, aside)
        _migrate(aside)
        kept = database.with_name(f"{database.name}.before-{now}")
        _copy(database, kept)
        os.replace(aside, database)
    except (*BACKEND_ERRORS, sqlite3.Error, CommandError) as error:
        raise TrackerError(
            f"{database}: cannot be brought up to date ({error}); it is as it was. A store of a later MLflow needs "
            "that version; a damaged one can be left aside under another name, and runs are sent anew from their JSONL"
        ) from error
    return Upgrade(before, now, kept)


def _migrate(database: Path) -> None:
    engine = create_engine(f"sqlite:///{database}")
    try:
        schema._upgrade_db(engine)
    finally:
        engine.dispose()


def _copy(source: Path, target: Path) -> None:
    """By sqlite itself, so that what a writer has not finished is not in it."""
    target.unlink(missing_ok=True)
    with sqlite3.connect(source) as read, sqlite3.connect(target) as written:
        read.backup(written)
    read.close()
    written.close()
