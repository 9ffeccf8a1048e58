"""Objects in a bucket as paths: the few operations that a dataset needs, over obstore. Needs the extra ``s3``.

A put is atomic, and may be asked to create only, or to replace only what was read: that stands in for the rename and the locks of a
folder. Credentials, region and endpoint come from the environment: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``,
``AWS_ENDPOINT_URL`` and the others that obstore reads by itself; so do those of ``gs://`` and ``az://``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from worldsim.datasets.errors import DatasetError

RETRIES: dict[str, Any] = {"max_retries": 8, "retry_timeout": timedelta(seconds=60)}
"""How often a request that the store did not answer, or answered by 5xx or by "slow down", is sent again: for about half a minute."""
_RANGES = ("InvalidRange", "Range Not Satisfiable", "non-partial response")
_REFUSED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "ExpiredToken", "InvalidToken", "Forbidden", "Unauthorized")
_UNREACHED = ("error sending request", "timed out", "operation timed out", "dns error")

Tag = Any
"""What tells one content of an object from the next: its ETag, and its version where the store has them."""


class StoreError(ValueError):
    """A store cannot be reached, or refuses."""


@dataclass(frozen=True, order=True)
class StorePath:
    """A place in a bucket, with the names that ``pathlib.Path`` has for the same; there are no folders, only keys that share a beginning.

    Attributes:
        bucket: ``s3://bucket``.
        key: Names with ``/`` between them.
    """

    bucket: str
    key: str

    @staticmethod
    def parse(url: str) -> StorePath:
        """Read ``s3://bucket/name``.

        Raises:
            DatasetError: There is no bucket, or no name in it.
        """
        scheme, _, rest = url.partition("://")
        bucket, _, key = rest.partition("/")
        names = [name for name in key.split("/") if name]
        if not bucket or not names or {".", ".."} & set(names):
            raise DatasetError(f"{url!r} is no place for a dataset: name a bucket and a folder in it, as {scheme}://bucket/name")
        return StorePath(f"{scheme}://{bucket}", "/".join(names))

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> StorePath:
        return StorePath(self.bucket, f"{self.key}/{name}")

    @property
    def name(self) -> str:
        """The last of its names."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> StorePath:
        """What its key begins with."""
        return StorePath(self.bucket, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> StorePath:
        """Return the place beside it that is called ``name``."""
        return StorePath(self.bucket, str(PurePosixPath(self.key).with_name(name)))

    def absolute(self) -> StorePath:
        """Return itself."""
        return self

    def resolve(self) -> StorePath:
        """Return itself."""
        return self

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a store has no folders."""

    # ---------------------------------------------------------------- reading

    def read_bytes(self) -> bytes:
        """Read the object.

        Raises:
            FileNotFoundError: There is none.
            StoreError: The store refuses or is not there.
        """
        return self.read_tagged()[0]

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read the object as text; errors as ``read_bytes``."""
        return self.read_bytes().decode(encoding)

    def read_tagged(self) -> tuple[bytes, Tag]:
        """Read the object and what tells this content from the next; errors as ``read_bytes``."""
        with _said(self):
            got = _obstore().get(self._client, self.key)
            return bytes(got.bytes()), _tag(got.meta)

    def read_tail(self, length: int) -> bytes:
        """Read the last bytes, fewer where there are not so many; errors as ``read_bytes``."""
        with _said(self):
            return bytes(_obstore().get(self._client, self.key, options={"range": {"suffix": length}}).bytes())

    def read_ranges(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read the bytes at each offset and length, together where they are neighbours; errors as ``read_bytes``."""
        with _said(self):
            starts, lengths = [offset for offset, _ in places], [length for _, length in places]
            return [bytes(data) for data in _obstore().get_ranges(self._client, self.key, starts=starts, lengths=lengths)]

    def tag(self) -> Tag:
        """Return what tells its content from the next; errors as ``read_bytes``."""
        with _said(self):
            return _tag(_obstore().head(self._client, self.key))

    def exists(self) -> bool:
        """Whether there is such an object."""
        try:
            self.tag()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether any key begins with it.

        Raises:
            StoreError: There is no such bucket, or the store refuses or is not there.
        """
        return any(self._list())

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every object below it, by their names from here on, sorted."""
        skip = len(self.key) + 1
        return dict(sorted((str(one["path"])[skip:], int(one["size"])) for one in self._list()))

    def _list(self) -> Iterator[Any]:
        with _said(self):
            for page in _obstore().list(self._client, prefix=self.key):
                yield from page

    # ---------------------------------------------------------------- writing

    def write_bytes(self, data: bytes) -> None:
        """Put the object, whole.

        Raises:
            StoreError: The store refuses or is not there.
        """
        with _said(self):
            _obstore().put(self._client, self.key, data, use_multipart=False)

    def create(self, data: bytes) -> Tag | None:
        """Put the object where there is none, and return its tag; None where there is one. Errors as ``write_bytes``."""
        return self.put_over(data, None)

    def put_over(self, data: bytes, known: Tag | None) -> Tag | None:
        """Put the object where its tag is still ``known``, None for no object; return its new tag, or None where it is another by now.

        Errors as ``write_bytes``.
        """
        errors = _obstore().exceptions
        with _said(self):
            try:
                return _tag(_obstore().put(self._client, self.key, data, mode=known or "create"))
            except (errors.AlreadyExistsError, errors.PreconditionError, FileNotFoundError) as error:
                if _has(error, ("NoSuchBucket",)):
                    raise
                return None

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object; a store does not say whether there was one. Errors as ``write_bytes``."""
        with _said(self):
            _obstore().delete(self._client, self.key)

    def remove_all(self) -> None:
        """Remove every object below it. Errors as ``write_bytes``."""
        with _said(self):
            if keys := [str(one["path"]) for one in self._list()]:
                _obstore().delete(self._client, keys)

    @property
    def _client(self) -> Any:
        return client(self.bucket)


def client(bucket: str) -> Any:
    """Return this process's obstore client of a bucket.

    Raises:
        StoreError: The process was forked off one that had used a store: its client would wait for threads that are not here.
        DatasetError: obstore is not installed.
    """
    if _used.setdefault("process", os.getpid()) != os.getpid():
        raise StoreError(
            f"{bucket} cannot be read in a process forked off one that has read a store: start workers by 'spawn', as "
            "DataLoader(..., multiprocessing_context='spawn') does, and clip_loader by itself"
        )
    return _new_client(bucket)


def forget() -> None:
    """Have clients made anew, as after other credentials or another endpoint came into the environment."""
    _new_client.cache_clear()


_used: dict[str, int] = {}


@cache
def _new_client(bucket: str) -> Any:
    plain = {"client_options": {"allow_http": True}} if _endpoint().startswith("http:") else {}
    return _obstore().store.from_url(bucket, retry_config=RETRIES, **plain)


@cache
def _obstore() -> Any:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise DatasetError(f"obstore is not installed: run pip install 'worldsim-gym[s3]' ({error})") from error
    return obstore


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""


def _tag(meta: Any) -> Tag:
    return {key: meta[key] for key in ("e_tag", "version") if meta[key] is not None}


def _has(error: BaseException, words: Sequence[str]) -> bool:
    return any(word in str(error) for word in words)


@contextmanager
def _said(path: StorePath) -> Iterator[None]:
    """Say in one sentence what a store refuses."""
    try:
        yield
    except (DatasetError, StoreError):
        raise
    except Exception as error:
        known = _obstore().exceptions
        if isinstance(error, FileNotFoundError) and not _has(error, ("NoSuchBucket",)):
            raise FileNotFoundError(f"{path} is missing") from None
        if not isinstance(error, known.BaseError | FileNotFoundError):
            raise
        if _has(error, _RANGES):
            raise ValueError("bytes are not all there") from None
        raise StoreError(_sentence(path, error)) from error


def _sentence(path: StorePath, error: Exception) -> str:
    known, at = _obstore().exceptions, f" at {_endpoint()}" if _endpoint() else ""
    keep = "what is committed is kept, the same command goes on from there"
    if _has(error, ("NoSuchBucket",)):
        return f"bucket {path.bucket} does not exist{at}: make it, or correct its name"
    if _has(error, ("169.254.169.254", "169.254.170.2")):
        return f"there are no credentials for {path.bucket}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if _has(error, _REFUSED) or isinstance(error, known.PermissionDeniedError | known.UnauthenticatedError):
        word = next((word for word in _REFUSED if word in str(error)), "AccessDenied")
        return (
            f"{path.bucket}{at} refuses access to {path} ({word}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to ones that may; {keep}"
        )
    if _has(error, _UNREACHED):
        return f"{path.bucket}{at or ' '} cannot be reached: look at the network and at AWS_ENDPOINT_URL; {keep}".replace("  ", " ")
    return f"{path.bucket}{at} failed on {path} ({str(error).splitlines()[0][:300]}); {keep}"
