"""The error that users of datasets see."""

from __future__ import annotations


class DatasetError(ValueError):
    """A dataset cannot be written or read as asked; the message names the file and the way out."""
