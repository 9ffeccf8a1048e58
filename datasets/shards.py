"""An episode's slot straight from its file and to it: every byte is checked, and a chunk that is not there is an error, not zeros.

Zarr gives the fill value for what is missing, and spends most of a short read or write on scheduling. The files are plain Zarr v3
all the same, byte by byte what Zarr writes: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from worldsim.datasets.storage import Reading, Root, opened

_ABSENT = np.uint64(2**64 - 1)
_ENTRY = 16  # bytes of an index entry: offset and length
_CRC = 4
_ZSTD = Zstd(level=1)


@dataclass(frozen=True)
class SlotLayout:
    """How one slot of an array lies in its file.

    Attributes:
        dtype: Little-endian type of the values.
        row: Shape of one time step.
        chunk: Time steps of a chunk.
        chunks: Chunks of the file's index; 0 where the file is one bare chunk.
    """

    dtype: np.dtype[Any]
    row: tuple[int, ...]
    chunk: int
    chunks: int

    def read(self, file: Root, start: int, stop: int) -> NDArray[Any]:
        """Read time steps ``start`` to ``stop`` of a slot's file, ``(stop - start, *row)``.

        Raises:
            ValueError: A checksum is wrong, or a chunk is missing or of another size.
            OSError: The file cannot be read.
        """
        first = start // self.chunk
        out = np.empty((-(-stop // self.chunk) - first, self.chunk, *self.row), self.dtype)
        with opened(file) as reading:
            places = self._places(reading)[first : first + len(out)]
            for i, data in enumerate(_pieces(reading, places) if self.chunks else [reading.whole()]):
                out[i] = self._decode(data)
        return out.reshape(-1, *self.row)[start - first * self.chunk : stop - first * self.chunk]

    def encode(self, values: NDArray[Any]) -> bytes:
        """Return the bytes of a slot's file that holds time steps ``values (n, *row)``, at least one.

        Chunks behind the last step are absent; what a chunk holds behind it is zero.
        """
        made = [self._encode(values[start : start + self.chunk]) for start in range(0, len(values), self.chunk)]
        if not self.chunks:
            return made[0]
        index = np.full((self.chunks, 2), _ABSENT, "<u8")
        index[: len(made), 1] = [len(data) for data in made]
        index[: len(made), 0] = np.cumsum(index[: len(made), 1]) - index[: len(made), 1]
        return b"".join((*made, _sum_added(index.tobytes())))

    def _encode(self, values: NDArray[Any]) -> bytes:
        if len(values) < self.chunk:
            values = np.concatenate((values, np.zeros((self.chunk - len(values), *self.row), self.dtype)))  # (chunk, *row)
        return _sum_added(_ZSTD.encode(np.ascontiguousarray(values, self.dtype)))

    def _places(self, reading: Reading) -> list[tuple[int, int]]:
        """Return offset and length of every chunk, from the index at the end of a shard; empty where the file is no shard."""
        if not self.chunks:
            return []
        length = self.chunks * _ENTRY + _CRC
        tail = reading.tail(length)
        if len(tail) < length:
            raise ValueError(f"the file has {len(tail)} bytes, its index alone takes {length}")
        index = np.frombuffer(_checked(tail), "<u8").reshape(-1, 2)
        return [(int(offset), int(count)) if offset != _ABSENT else (-1, 0) for offset, count in index]

    def _decode(self, data: bytes) -> NDArray[Any]:
        values = np.frombuffer(_ZSTD.decode(_checked(data)), self.dtype)
        return values.reshape(self.chunk, *self.row)


def _pieces(reading: Reading, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    if any(offset < 0 for offset, _ in places):
        raise ValueError("a chunk is missing")
    for (offset, length), data in zip(places, reading.pieces(places), strict=True):
        if len(data) != length:
            raise ValueError(f"{length} bytes at {offset} are not all there")
        yield data


def _checked(data: bytes) -> bytes:
    if len(data) < _CRC or google_crc32c.value(data[:-_CRC]) != int.from_bytes(data[-_CRC:], "little"):
        raise ValueError("a checksum is wrong")
    return data[:-_CRC]


def _sum_added(data: bytes) -> bytes:
    return data + int(google_crc32c.value(data)).to_bytes(_CRC, "little")


def slot_layout(metadata: Mapping[str, Any]) -> SlotLayout | None:
    """Return how slots lie in files by an array's ``zarr.json``, or None where its codecs are not those of layout v1."""
    shape = metadata["shape"]
    outer = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
    codecs = list(metadata["codecs"])
    inner = outer
    if _names(codecs) == ["sharding_indexed"]:
        sharding = codecs[0]["configuration"]
        inner, codecs = tuple(sharding["chunk_shape"]), list(sharding["codecs"])
        if sharding["index_location"] != "end" or _names(sharding["index_codecs"]) != ["bytes", "crc32c"]:
            return None
    row = tuple(shape[2:])
    plain = _names(codecs) == ["bytes", "zstd", "crc32c"] and codecs[0].get("configuration", {}).get("endian", "little") == "little"
    if not plain or inner[0] != 1 or outer[0] != 1 or inner[2:] != row or outer[2:] != row or outer[1] < shape[1]:
        return None
    dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
    return SlotLayout(dtype, row, inner[1], 0 if outer is inner else outer[1] // inner[1])


def _names(codecs: Any) -> list[str]:
    return [codec["name"] for codec in codecs]
