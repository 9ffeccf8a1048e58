"""One job a dataset in an object store: a lease object, renewed while its process lives."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from worldsim.datasets.errors import DatasetError
from worldsim.datasets.objects import StoreError, StorePath, Tag

SECONDS = 60.0
"""How long a lease runs when its process is gone."""


@contextmanager
def store_lock(root: StorePath) -> Iterator[None]:
    """Hold the lease of the dataset ``root``, the object ``.NAME.lock`` beside it.

    It is put only where there is none, or over the one that was read and has run out; clocks of machines that share a dataset must
    agree within seconds. A job that loses it all the same, since it stood still, does no harm: commits are put only where there are
    none.

    Raises:
        DatasetError: Another process holds it, or has taken it over.
        StoreError: The store cannot be written.
    """
    lease = _Lease(root)
    lease.take()
    try:
        yield
    except BaseException:
        lease.give_back()
        raise
    lease.give_back()
    if lease.lost:
        raise DatasetError(f"another job took {root} over while this one stood still; what is committed is kept: look at 'status'")


class _Lease:
    def __init__(self, root: StorePath) -> None:
        self.root, self.path = root, root.with_name(f".{root.name}.lock")
        self.owner = uuid.uuid4().hex
        self.lost = False
        self._tag: Tag = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def take(self) -> None:
        while True:
            self._tag = self.path.create(self._text())
            if self._tag is None:
                try:
                    there, known = self.path.read_tagged()
                except FileNotFoundError:
                    continue  # given back just now
                self._check(json.loads(there))
                self._tag = self.path.put_over(self._text(), known)
            if self._tag is not None:
                break
        self._thread.start()

    def give_back(self) -> None:
        self._over.set()
        self._thread.join()
        if not self.lost:
            self.path.unlink()

    def _check(self, there: dict[str, Any]) -> None:
        left = float(there["expires"]) - time.time()
        if left > 0 and there["owner"] != self.owner:
            raise DatasetError(
                f"another job runs in {self.root} (process {there['process']} on {there['host']}): wait for it, follow it by "
                f"'worldsim data status {self.root}', or end it; if it is dead, its hold ends in {left:.0f} s; nothing was changed"
            )

    def _renew(self) -> None:
        while not self._over.wait(SECONDS / 4):
            try:
                tag = self.path.put_over(self._text(), self._tag)
            except StoreError:
                continue  # the job's own requests fail as well, and tell
            if tag is None and not self._is_mine():
                self.lost = True
                return
            self._tag = tag or self._tag

    def _is_mine(self) -> bool:
        """Whether it was renewed by a request whose answer got lost."""
        try:
            there, self._tag = self.path.read_tagged()
        except (FileNotFoundError, StoreError):
            return False
        return bool(json.loads(there)["owner"] == self.owner)

    def _text(self) -> bytes:
        told = {"owner": self.owner, "host": platform.node(), "process": os.getpid(), "expires": round(time.time() + SECONDS, 3)}
        return json.dumps(told).encode()
