"""What a driver has of its sweep: the lock on this machine and, where an object store keeps it, the claim there."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from haps_search.errors import PoolError
from haps_search.records.objects import pull_whole, push_from
from haps_search.records.remote import Remote, remote_of
from haps_search.sweep.claim import Claim
from haps_search.sweep.layout import JOURNAL, lock_file
from haps_search.sweep.lock import Lock


class Hold:
    """The only driver of a sweep, or the only writer of a run, from its construction to `release`."""

    def __init__(self, folder: Path) -> None:
        """Take it, and bring the folder to what the store has.

        Raises:
            ConfigError: another driver has it. PoolError: the store does not answer.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._remote = folder, remote_of(folder)
        self._lock = Lock(lock_file(folder))
        self._claim: Claim | None = None
        self._current = False
        self._broken = ""
        if self._remote is not None:
            try:
                self._take(self._remote)
            except BaseException:
                self.release()
                raise

    @property
    def leaving(self) -> bool:
        return self._lock.leaving

    @property
    def why(self) -> str:
        """Why it leaves, "" while it does not."""
        return self._lock.why

    def leave(self, why: str) -> None:
        """Ask the trials to save and leave. Also from a signal's handler."""
        self._lock.leave(why)
        if self._claim is not None:
            self._claim.leave()

    def appended(self, file: Path, offset: int) -> None:
        """The journal has grown from a byte on. Raises PoolError: it may not count, and this driver has to leave.

        After that nothing more is taken: whether the store has the event is known to who reads it anew.
        """
        if self._remote is None or self._claim is None:
            return
        if self._broken:
            raise PoolError(self._broken)
        try:
            self._claim.check()
            push_from(self._remote.objects, self._remote.name(file), file, offset)
        except PoolError as error:
            self._broken = str(error)
            raise

    def release(self) -> None:
        """Put back what was written meanwhile, and let the next driver in.

        A folder that could not be brought to what the store has is no news for it.
        """
        with ExitStack() as ending:  # whatever the store says, this machine's lock is let go
            ending.callback(self._lock.release)
            if self._remote is not None:
                ending.callback(self._remote.end_writing, self._folder)
            if self._claim is not None:
                ending.callback(self._claim.release)
                if self._remote is not None and self._current:
                    self._claim.check()
                    self._remote.push_changed(self._folder)

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self, remote: Remote) -> None:
        remote.begin_writing(self._folder)
        self._claim = Claim(remote.objects, self._folder.name)
        _bring(remote, self._folder)
        self._current = True


def fetched(folder: Path) -> Path:
    """The folder of a sweep or run, as its object store has it; as it is where it has none. Raises PoolError."""
    remote = remote_of(folder)
    if remote is not None:
        _bring(remote, folder)
    return folder


def put_back(folder: Path) -> None:
    """What a verb wrote into the folder of a sweep or run, to its object store where it has one. Raises PoolError."""
    remote = remote_of(folder)
    if remote is not None:
        remote.push_changed(folder)


def _bring(remote: Remote, folder: Path) -> None:
    remote.pull(folder)
    journal = folder / JOURNAL
    with remote.pulling(folder) as wanted:
        if wanted and not pull_whole(remote.objects, remote.name(journal), journal):
            journal.unlink(missing_ok=True)  # of a sweep that was deleted there
