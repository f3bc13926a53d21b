"""Minari datasets on disk: their names, writing them whole, finding them again.

A dataset is written beside its place and renamed, so that one that is there is complete. Minari's
``create_dataset_from_buffers`` takes whole episodes and needs none of what its extra ``create``
installs.
"""

import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium as gym

from agents.offline.episodes import Episode

if TYPE_CHECKING:
    from minari import MinariDataset
    from minari.data_collector import EpisodeBuffer

ROOT = "MINARI_DATASETS_PATH"
OWN = "ptenv"  # key of what we say in the metadata, and namespace of all ids
UNFINISHED = ".collecting"  # folder of what is not a dataset yet
LARGE_BYTES = 8192  # of an array that is compressed
SPLITS = ("train", "validation", "test")


def require_minari() -> None:
    """Say what to install where it is missing."""
    try:
        import h5py  # noqa: F401
        import minari  # noqa: F401
    except ModuleNotFoundError as missing:
        raise ValueError(
            f"datasets need {missing.name}, which is not installed: pip install 'ptenv[offline]'."
        ) from None


def dataset_id(env_id: str, quality: str, split: str = "train", number: int = 0) -> str:
    """"ptenv/voxel-mask-mini/expert-v0"; the split is named but for the training patients."""
    family = re.sub(r"-v\d+$", "", env_id.rpartition("/")[2])
    family = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", family).lower()
    return of_split(f"{OWN}/{family}/{quality}-v{number}", split)


def of_split(name: str, split: str) -> str:
    """The id of the same behavior on another split's patients, from that of the training ones."""
    if not re.fullmatch(r"[-\w/]*\w-v\d+", name):
        raise ValueError(f"dataset={name!r} is no id; write NAMESPACE/NAME-v0.")
    if split == "train":
        return name
    stem, _, number = name.rpartition("-v")
    return f"{stem}-{split}-v{number}"


@contextmanager
def datasets_in(root: Path | str | None) -> Iterator[None]:
    """Let Minari keep its datasets in a folder; None leaves its own."""
    before = os.environ.get(ROOT)
    if root is not None:
        os.environ[ROOT] = str(Path(root).resolve())  # Minari writes to no relative one
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(ROOT, None)
        else:
            os.environ[ROOT] = before


def write_dataset(
    root: Path, name: str, env: gym.Env, eval_env: gym.Env, episodes: Iterable[Episode],
    about: Mapping, description: str, author: str | None = None,
) -> Path:  # fmt: skip
    """Write a dataset; ``about`` is kept in its metadata under "ptenv".

    ``env`` is what ``recover_environment()`` makes, ``eval_env`` with ``eval_env=True``.
    """
    import minari
    from minari.namespace import create_namespace, list_local_namespaces

    root.mkdir(parents=True, exist_ok=True)
    aside = root / UNFINISHED / ".writing" / name
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed here
    aside.mkdir(parents=True)
    try:
        with datasets_in(aside), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what a local dataset may leave out
            dataset = minari.create_dataset_from_buffers(
                name, [], env=env, eval_env=eval_env, algorithm_name=about.get("quality"),
                author=author, description=description, requirements=[_requirement()],
            )  # fmt: skip
            told = []
            for number, episode in enumerate(episodes):
                dataset.update_dataset_from_buffer([_buffer(number, episode)])
                told.append(episode.about)
            dataset.storage.update_episode_metadata(told)
            _compress(Path(dataset.storage.data_path) / "main_data.hdf5")
            size_mb = round(float(dataset.storage.get_size()), 3)
            dataset.storage.update_metadata({OWN: dict(about), "dataset_size": size_mb})
        with datasets_in(root):
            namespace = name.rpartition("/")[0]
            if namespace and namespace not in list_local_namespaces():
                create_namespace(namespace)
            os.replace(aside / name, root / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        remove_empty(root / UNFINISHED)
    return root / name


def usual_root() -> Path:
    """Where Minari keeps its datasets now."""
    from minari.storage.datasets_root_dir import get_dataset_path

    return get_dataset_path()


def is_there(root: Path, name: str) -> bool:
    return (root / name / "data" / "metadata.json").exists()


def load(name: str, root: Path | str | None = None) -> "MinariDataset":
    """A dataset that ``ptenv collect`` wrote, by its id."""
    require_minari()
    import minari

    with datasets_in(root):
        folder = usual_root()
        if not is_there(folder, name):
            known = [n for n in minari.list_local_datasets() if n.startswith(f"{OWN}/")]
            raise ValueError(
                f"dataset={name!r} is not in {folder}, which has {known or 'none of ptenv'}; "
                f"record it with `ptenv collect`, or name the folder ({ROOT} is the usual one)."
            )
        dataset = minari.load_dataset(name)
    if OWN not in dataset.storage.metadata:
        raise ValueError(f"dataset={name!r} was not written by `ptenv collect`; choose another.")
    return dataset


def about(dataset: "MinariDataset") -> dict:
    """What the collection says of itself: quality, split, cases, scores, settings."""
    return dataset.storage.metadata[OWN]


def of_episodes(dataset: "MinariDataset") -> list[dict]:
    """Seed, options, case, budget, score … of every episode."""
    return list(dataset.storage.get_episode_metadata(dataset.episode_indices))


def remove_empty(folder: Path) -> None:
    """Remove folders in which nothing is left, from the deepest on."""
    for path in sorted((folder, *folder.rglob("*")), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _requirement() -> str:
    return f"ptenv=={version('ptenv')}"  # another version may plan otherwise


def _buffer(number: int, episode: Episode) -> "EpisodeBuffer":
    from minari.data_collector import EpisodeBuffer

    return EpisodeBuffer(
        id=number, seed=episode.seed, options=episode.options, observations=episode.observations,
        actions=episode.actions, rewards=episode.rewards, terminations=episode.terminations,
        truncations=episode.truncations, infos=episode.infos,
    )  # fmt: skip


def _compress(path: Path) -> None:
    """Rewrite an HDF5 file: large arrays compressed (planes and volumes are mostly zeros), small
    ones without the index of chunks, which takes more room than they do."""
    import h5py

    smaller = path.with_suffix(".smaller")
    with h5py.File(path, "r") as source, h5py.File(smaller, "w", track_order=True) as target:

        def copy(name: str, item) -> None:
            if isinstance(item, h5py.Dataset):
                packed = {"compression": "gzip", "shuffle": True, "chunks": item.shape}
                made = target.create_dataset(
                    name, data=item[()], **(packed if item.nbytes >= LARGE_BYTES else {})
                )
            else:
                made = target.require_group(name)
            made.attrs.update(item.attrs)

        source.visititems(copy)
    os.replace(smaller, path)
