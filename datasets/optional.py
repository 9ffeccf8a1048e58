"""Packages that only some formats need: imported where used, with the way out in the error."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from worldsim.datasets.layout import DatasetError


def need(module: str, extra: str) -> Any:
    """Import ``module``, a part of the optional dependencies ``extra``.

    Raises:
        DatasetError: It is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise DatasetError(f"{module.split('.')[0]} is not installed: run pip install 'worldsim-gym[{extra}]' ({error})") from error
