"""Configurations as records keep them: folders of DICOM files are often named after people.

Such a folder stands there as ``dicom:DIGEST``, the digest of its files: whoever has them can tell
that they are the same.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ptenv.cases.patients import name_without_path

READER = "engine.io.dicom_patient.read_patient"
FIELDS = "from_plan"  # the key of fields that a plan's file has
SCHEME = "dicom:"  # of cases
NOWHERE = "missing"


def nameless(cfg: DictConfig) -> DictConfig:
    """The resolved configuration without the paths of DICOM folders."""
    settings = OmegaConf.to_container(cfg, resolve=True)
    return OmegaConf.create(_replaced(settings, dicom_folders(settings)))


def dicom_folders(settings: Mapping) -> dict[str, str]:
    """What stands for each DICOM folder that a resolved configuration names."""
    return {path: _digest(path) for path in _paths(settings)}


def without(text: str, folders: Mapping[str, str]) -> str:
    """A text where the digests stand for the folders."""
    for path in sorted(folders, key=len, reverse=True):  # a folder before the one that it lies in
        whole = rf"({SCHEME})?(?<![\w./-]){re.escape(path.rstrip('/'))}(?![\w.-])"
        text = re.sub(whole, lambda match, stand_in=folders[path]: stand_in, text)
    return text


def _paths(node) -> Iterator[str]:
    if isinstance(node, Mapping):
        if node.get("_target_") == READER and node.get("path"):
            yield str(node["path"])
        if isinstance(node.get(FIELDS), str):
            yield node[FIELDS]
        if "dicom" in node and isinstance(node.get("plan"), str):  # of ptenv validate
            yield node["plan"]
        node = node.values()
    elif isinstance(node, str):
        if node.startswith(SCHEME):
            yield node.removeprefix(SCHEME)
        return
    elif not isinstance(node, list):
        return
    for value in node:
        yield from _paths(value)


def _replaced(node, folders: Mapping[str, str]):
    if isinstance(node, Mapping):
        return {key: _replaced(value, folders) for key, value in node.items()}
    if isinstance(node, list):
        return [_replaced(value, folders) for value in node]
    return without(node, folders) if isinstance(node, str) else node


def _digest(path: str) -> str:
    """Of the files; one word for all paths that lead nowhere, and a digest that stands for a folder
    already stays."""
    path = path.removeprefix(SCHEME)
    case = f"{SCHEME}{Path(path).expanduser()}"
    if Path(path).expanduser().exists():
        return name_without_path(case)
    is_digest = re.fullmatch("[0-9a-f]{12}", path)
    return f"{SCHEME}{path if is_digest else NOWHERE}"
