"""Croissant metadata of a dataset: ``croissant.json``, which data set search engines and ``mlcroissant`` read.

Format: Croissant 1.0, http://mlcommons.org/croissant/1.0 (Akhtar et al. 2024, "Croissant: A Metadata Format for ML-Ready Datasets").
The arrays are described and found by pattern; what Croissant can load by itself are the episodes' records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from worldsim.datasets.expect import expected_arrays
from worldsim.datasets.layout import ArraySpec, read_json
from worldsim.datasets.reader import read_attributes
from worldsim.datasets.storage import Root, digest

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_OBJECTS = ("zarr.json", "plan.json", "index/stats.json", "index/scenarios.json", "index/tasks.json", "index/conditioning.json")
_COLUMNS = {  # of a commit record: Croissant type and meaning
    "episode": ("sc:Integer", "Number of the episode in the plan"),
    "part": ("sc:Integer", "Part that its arrays lie in"),
    "slot": ("sc:Integer", "Its place along the first axis of the part's arrays"),
    "length": ("sc:Integer", "Steps T"),
    "frames": ("sc:Integer", "Frames, T + 1"),
    "status": ("sc:Text", "ok, rejected or failed"),
    "reason": ("sc:Text", "Why it was rejected or failed"),
    "seed": ("sc:Integer", "Seed that the episode was reset with"),
    "scenario": ("sc:Text", "Name of the scenario"),
    "policy": ("sc:Text", "Name of the policy"),
    "return": ("sc:Float", "Sum of rewards"),
}
_MEANING = {
    "observation/images/main": "Frames, RGB",
    "observation/latent": "What the world decoded its frames from",
    "label/segmentation": "Class of each pixel; zarr.json names the classes",
    "observation/state": "Labelled state in physical units",
    "action": "action[t] takes frame[t] to frame[t + 1]",
    "reward": "reward[t] belongs to action[t]",
    "terminated": "Whether action[t] ended the episode",
    "truncated": "Whether a limit ended the episode after action[t]",
}


def croissant_text(root: Root, summary: Mapping[str, Any]) -> str:
    """Write the metadata of a dataset as indented JSON-LD.

    Args:
        root: The dataset, its ``index/`` written.
        summary: What ``worldsim.datasets.finalize.summarize`` says of it.

    Raises:
        DatasetError: The dataset cannot be read.
    """
    return json.dumps(croissant(root, summary), indent=2, ensure_ascii=False) + "\n"


def croissant(root: Root, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a dataset in Croissant 1.0; see ``croissant_text``."""
    attributes = read_attributes(root)
    arrays = expected_arrays(attributes, max(part["horizon"] for part in read_json(root / "plan.json")["parts"]))
    height, width = attributes["frame_size"]
    commits = _files("commits", "commits/*/*.json", "application/json", "Commit records, one an episode")
    streams = [_files(array.name, f"parts/*/{array.name}/c.*", "application/octet-stream", _meaning(array)) for array in arrays]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": attributes["name"],
        "description": (
            f"{summary['episodes']} episodes, {summary['frames']} frames of {width} x {height} pixels at {attributes['fps']:g} a second, "
            f"with actions, rewards, endings and labelled state, in worldsim's dataset layout v{attributes['version']} (Zarr v3)."
        ),
        "license": _licence(attributes["licence"]),
        "url": "./",
        "version": "1.0.0",
        "datePublished": str(summary["finalized"])[:10],
        "dateCreated": attributes["created"],
        "creator": {"@type": "sc:Organization", "name": "worldsim"},
        "citeAs": f"{attributes['name']}, worldsim dataset, sha256 {summary['fingerprint']}",
        "keywords": ["world model", "video", "reinforcement learning", "worldsim"],
        "distribution": [*_objects(root), commits, *streams],
        "recordSet": [_episodes(), _streams(arrays)],
    }


def _licence(text: str) -> str:
    return f"https://spdx.org/licenses/{text}.html" if _SPDX.fullmatch(text) and text != "unknown" else text


def _meaning(array: ArraySpec) -> str:
    return _MEANING.get(array.name, array.name)


def _objects(root: Root) -> list[dict[str, Any]]:
    return [
        {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name,
            "contentSize": f"{size} B",
            "encodingFormat": "application/json",
            "sha256": sha256,
        }
        for name in _OBJECTS
        if (root / name).exists()
        for size, sha256 in [digest(root / name)]
    ]


def _files(name: str, pattern: str, kind: str, description: str) -> dict[str, Any]:
    return {"@type": "cr:FileSet", "@id": name, "name": name, "description": description, "encodingFormat": kind, "includes": pattern}


def _episodes() -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"episodes/{name}",
            "name": name,
            "description": description,
            "dataType": kind,
            "source": {"fileSet": {"@id": "commits"}, "extract": {"jsonPath": f"$.{name}"}},
        }
        for name, (kind, description) in _COLUMNS.items()
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": "episodes",
        "name": "episodes",
        "description": "One record an episode, rejected and failed ones included",
        "key": {"@id": "episodes/episode"},
        "field": fields,
    }


def _streams(arrays: Sequence[ArraySpec]) -> dict[str, Any]:
    """The arrays as a table of its own: what Croissant cannot open it at least names, with type and shape."""
    rows = [
        {
            "streams/name": array.name,
            "streams/dtype": array.dtype,
            "streams/shape": " x ".join(["episodes", *map(str, array.shape)]),
            "streams/meaning": _meaning(array),
        }
        for array in arrays
    ]
    fields = [{"@type": "cr:Field", "@id": name, "name": name.partition("/")[2], "dataType": "sc:Text"} for name in rows[0]]
    return {
        "@type": "cr:RecordSet",
        "@id": "streams",
        "name": "streams",
        "description": "Arrays of a part: Zarr v3, one slot an episode, chunks checked by crc32c",
        "field": fields,
        "data": rows,
    }
