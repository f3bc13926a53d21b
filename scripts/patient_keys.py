"""Patients of a configuration, with refusals in the words of the command line.

A reader calls its arguments ``structures=…``; on the command line they are keys of a group,
``patient.structures=…``.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from engine.io.dicom_dataset import DicomError
from engine.io.dicom_patient import read_patient
from engine.patient.patient import Patient
from scripts.nameless import READER


def patient_of(cfg: DictConfig) -> Patient:
    """The patient that the group ``patient`` of a configuration makes."""
    if cfg.patient.get("_target_") != READER:
        return instantiate(cfg.patient, _convert_="all")
    with spoken_as_keys_of("patient", read_patient):
        return instantiate(cfg.patient, _convert_="all")


@contextmanager
def spoken_as_keys_of(group: str, *readers: Callable, **elsewhere: str) -> Iterator[None]:
    """Refusals of readers with the group before their arguments, but for those that are keys
    ``elsewhere``."""
    arguments = [name for reader in readers for name in signature(reader).parameters]
    keys = {name: f"{group}.{name}" for name in arguments} | elsewhere
    try:
        yield
    except (ValueError, FileNotFoundError, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if not isinstance(cause, (ValueError, FileNotFoundError)):
            raise
        named = rf"(?<![\w.])({'|'.join(keys)})=(?!=)"
        spoken = re.sub(named, lambda match: f"{keys[match[1]]}=", str(cause))
        kinds = (DicomError, FileNotFoundError, ValueError)  # others may want more than a text
        raise next(kind for kind in kinds if isinstance(cause, kind))(spoken) from error
