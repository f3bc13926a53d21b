"""Composing a command's configuration before it runs, so that a wrong key fails at once.

Hydra would report most of this by itself, but later, with exit code 1, and without saying which
key was probably meant.
"""

import difflib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scripts.quoting import quoted

CONF = Path(__file__).parent.parent / "conf"
OURS = "ptenv_"  # begins the names of our settings of Hydra's plugins: the plugins took the others
SPELLINGS = {  # by command: below a value there is no key, and dose is a group of ours
    "plan": {"output.dicom": "dicom"}, "export": {"dose": "published_dose"},
}  # fmt: skip
EXTRAS = {"submitit_local": "sweep", "submitit_slurm": "sweep", "ray": "ray"}  # bring a launcher


class WrongCall(Exception):
    """The command line asks for what cannot be; the message says what to do."""


def checked(command: str, arguments: list[str]) -> list[str]:
    """The arguments for Hydra, once they compose and the output folder can be written.

    Adds ``output=…`` where it was left to the default, so that the folder is named only once.
    """
    arguments = [_spelled(command, a) for a in arguments]
    args = get_args_parser().parse_args(arguments)
    asks_only = args.help or args.hydra_help or args.info or args.cfg or args.shell_completion
    if args.config_path or args.config_name or args.experimental_rerun:
        return arguments  # a configuration of the person's own: Hydra judges it
    own = [f"hydra.searchpath=[file://{Path(d).resolve()}]" for d in [args.config_dir] if d]
    searched = _searched(command, own + args.overrides) if args.multirun else []
    for overrides in _each_once([*searched, *args.overrides], args.multirun):
        cfg = composed(command, own + overrides)
        if args.multirun:
            _refuse_test_split(cfg)
    if asks_only:
        return arguments
    _refuse_missing(cfg)
    if "output" not in cfg or cfg.output is None:  # none, or named by the command itself
        return arguments
    if "folder" in cfg:
        _refuse_neither_folder_nor_json(Path(cfg.output), args.multirun)
    _refuse_unwritable(Path(cfg.folder if "folder" in cfg else cfg.output))
    named = any(o.split("=")[0].lstrip("+") == "output" for o in args.overrides)
    return arguments if named else [*arguments, f"output={quoted(str(cfg.output))}"]


def composed(command: str, overrides: list[str], with_hydra: bool = False) -> DictConfig:
    """The configuration of one command; `WrongCall` names what does not fit and what is near.

    ``with_hydra``: with Hydra's own settings under ``hydra``.
    """
    try:
        with _composing(command):
            return compose(command, overrides=overrides, return_hydra_config=with_hydra)
    except OverrideParseException as error:
        raise WrongCall(
            f"`{error.override}` cannot be read; write key=value, and put a value with spaces or "
            "signs such as = and , in quotes: \"key='value'\"."
        ) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise WrongCall(_explained(command, overrides, error)) from None


@contextmanager
def _composing(command: str) -> Iterator[None]:
    """Hydra over our configuration, also within a command that Hydra runs already."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("conf", version_base="1.3", job_name=command):
            yield
    finally:
        GlobalHydra.instance().hydra = running


def _searched(command: str, overrides: list[str]) -> list[str]:
    """What the sweeper's configuration sweeps over, as overrides; `WrongCall` where it cannot."""
    plain = _each_once(overrides, multirun=True)[0]
    sweeper = composed(command, plain, with_hydra=True).hydra.sweeper
    _refuse_without_optuna(sweeper)
    space = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    if sweeper._target_.endswith(".BasicSweeper"):
        _refuse_intervals([*space, *overrides])
    return space


def _refuse_intervals(overrides: list[str]) -> None:
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise WrongCall(
                f"`{override.input_line}` is an interval, which only a search can draw from; add "
                "hydra/sweeper=optuna, or list values: KEY=A,B."
            )


def _refuse_without_optuna(sweeper: DictConfig) -> None:
    if "ptenv_optuna" in sweeper._target_ and not find_spec("hydra_plugins.hydra_optuna_sweeper"):
        raise WrongCall("hydra/sweeper=optuna needs more packages: pip install 'ptenv[sweep]'.")


def _refuse_test_split(cfg: DictConfig) -> None:
    """Of commands that train: what a sweep chose by test cases, nothing could judge."""
    if "schedule" in cfg and cfg.get("split") == "test":
        raise WrongCall(
            "split=test cannot choose settings; sweep over split=validation, then judge what was "
            "chosen by one run with split=test."
        )


def folder_beside(output: str) -> str:
    """Where pictures and tables go: ``output``, or for FILE.json the folder FILE beside it."""
    path = Path(output)
    return str(path.with_suffix("")) if path.suffix == ".json" else str(output)


OmegaConf.register_new_resolver("folder_beside", folder_beside, replace=True)


def _spelled(command: str, argument: str) -> str:
    """An argument in Hydra's spelling, where a command names a group otherwise than its directory.

    With ``dose@engine: pencil_beam`` among a command's defaults both ``engine=`` and ``dose=``
    choose, and both ``engine.KEY=`` and ``dose.KEY=`` set a value. Where the defaults have a plain
    ``dose`` as well, that is what ``dose`` means. A launcher or sweeper of a Hydra plugin is the
    one with our settings, where ``conf/hydra`` has one. ``SPELLINGS`` are what a person may say for
    keys that cannot be called so.
    """
    for written, key in SPELLINGS.get(command, {}).items():
        if argument.startswith(f"{written}="):
            return f"{key}{argument[len(written):]}"
    plugin = re.fullmatch(r"hydra/(launcher|sweeper)=(\w+)", argument)
    if plugin and (CONF / "hydra" / plugin[1] / f"{OURS}{plugin[2]}.yaml").exists():
        return f"hydra/{plugin[1]}={OURS}{plugin[2]}"
    for group, name in _renamed_groups(command):
        names = _names(command, group, name)
        written = re.match(rf"([+~]*)({names})([.=].*)$", argument, re.DOTALL)
        if written:
            prefix, _, rest = written.groups()
            return f"{prefix}{group}@{name}{rest}" if rest[0] == "=" else f"{prefix}{name}{rest}"
    return argument


def _names(command: str, group: str, name: str) -> str:
    """Regular expression of what GROUP@NAME may be called; a place in Hydra's settings is none."""
    if name.startswith("hydra."):
        return group
    return name if group in _default_groups(command) else f"{group}|{name}"


def _renamed_groups(command: str) -> list[tuple[str, str]]:
    """Group and name of each default GROUP@NAME of a command."""
    return [tuple(key.split("@")) for key in _default_groups(command) if "@" in key]


def _default_groups(command: str) -> list[str]:
    """GROUP or GROUP@NAME of each default of a command."""
    defaults = OmegaConf.load(CONF / f"{command}.yaml").defaults
    return [str(key) for entry in defaults if OmegaConf.is_dict(entry) for key in entry]


def _each_once(overrides: list[str], multirun: bool) -> list[list[str]]:
    """Override lists that mention every value of a sweep at least once."""
    if not multirun:
        return [overrides]
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except OverrideParseException as error:
        raise WrongCall(f"`{error.override}` cannot be read; write key=value.") from None
    plain = [o.input_line for o in parsed if not o.is_sweep_override()]
    swept = [
        [f"{o.get_key_element()}={value}" for value in _values(o)]
        for o in parsed
        if o.is_sweep_override()
    ]
    n_lists = max(map(len, swept), default=1)
    return [plain + [values[i % len(values)] for values in swept] for i in range(n_lists)]


def _values(swept: Override) -> list[str]:
    """The values of a sweep; of an interval its ends."""
    if swept.is_discrete_sweep():
        return list(swept.sweep_string_iterator())
    interval = swept.value()
    return [str(interval.start), str(interval.end)]


def _explained(command: str, overrides: list[str], error: Exception) -> str:
    said = " ".join(f"{error}".split())
    group = re.search(r"Could not find '([^']+)'", said)
    if group:
        return _explained_choice(command, group.group(1), overrides)
    named = re.search(r"Could not override '([^']+)'", said) or re.search(r"Key '([^']+)'", said)
    if not named:
        return said
    key = _longest_match(named.group(1), overrides)
    near = difflib.get_close_matches(key, _known_keys(command, overrides), n=2, cutoff=0.65)
    hint = f" Did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else ""
    called = command.replace("_", " ")
    return f"`{key}` is no key of this command.{hint} `ptenv {called} --cfg job` lists them all."


def _longest_match(key: str, overrides: list[str]) -> str:
    """The key as the person wrote it (OmegaConf names only its last part)."""
    written = [o.split("=")[0].lstrip("+~") for o in overrides]
    return next((w for w in written if w == key or w.endswith(f".{key}")), key)


def choices(group: str) -> list[str]:
    """Names of a group's choices: its files."""
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def _explained_choice(command: str, choice: str, overrides: list[str]) -> str:
    group, _, name = choice.rpartition("/")
    if group == "hydra/launcher" and name in EXTRAS:
        return f"hydra/launcher={name} needs more packages: pip install 'ptenv[{EXTRAS[name]}]'" + (
            " and, for its metadata asks for AWS, pip install --no-deps hydra-ray-launcher."
            if name == "ray" else "."
        )  # fmt: skip
    known = [name.removeprefix(OURS) for name in choices(group)]
    renamed = (n for g, n in _renamed_groups(command) if f"{g}@{n}={name}" in overrides)
    group = next(renamed, group)
    if not known:
        return f"`{group}={name}` is no choice: the group {group!r} has none."
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean `{group}={near[0]}`?" if near else ""
    return f"`{group}={name}` is no choice; choose from {', '.join(known)}.{hint}"


def _known_keys(command: str, overrides: list[str]) -> list[str]:
    """Dotted keys of the configuration with whatever of the overrides composes, and its groups."""
    with _composing(command):
        kept: list[str] = []
        for override in overrides:
            try:
                compose(command, overrides=[*kept, override])
            except (HydraException, OmegaConfBaseException):
                continue
            kept.append(override)
        cfg = compose(command, overrides=kept)
    keys: list[str] = []

    def walk(node, prefix):
        for key in node:
            if not str(key).startswith("_"):
                keys.append(f"{prefix}{key}")
            if not OmegaConf.is_missing(node, key) and OmegaConf.is_dict(node._get_node(key)):
                walk(node._get_node(key), f"{prefix}{key}.")

    walk(cfg, "")
    return keys


def missing_keys(cfg: DictConfig) -> list[str]:
    """Full names of keys without a value, sorted; OmegaConf's own stumbles over what refers to
    them."""

    def walk(node, name: str) -> list[str]:
        if isinstance(node, dict):
            return [k for key, value in node.items() for k in walk(value, f"{name}.{key}")]
        if isinstance(node, list):
            return [k for i, value in enumerate(node) for k in walk(value, f"{name}[{i}]")]
        return [name.removeprefix(".")] if node == "???" else []

    return sorted(walk(OmegaConf.to_container(cfg, resolve=False), ""))


def _refuse_missing(cfg: DictConfig) -> None:
    missing = missing_keys(cfg)
    if missing:
        raise WrongCall(f"`{missing[0]}` has no default; give it as {missing[0]}=VALUE.")


def _refuse_neither_folder_nor_json(output: Path, sweeps: bool) -> None:
    if output.suffix == ".json":
        if sweeps:
            raise WrongCall(
                f"output={output} would be written by every run of the sweep; name a folder: "
                "output=FOLDER."
            )
        if output.is_dir():
            raise WrongCall(f"output={output} is a folder; name a file that can be written.")
    elif output.suffix[1:].isalpha() and not output.is_dir():
        raise WrongCall(
            f"output={output} looks like a file of another kind; name a folder, output=FOLDER, or "
            "a file for the numbers, output=FILE.json."
        )


def _refuse_unwritable(folder: Path) -> None:
    """Make the output folder and try it: rights alone do not tell of a full disk."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, probe = tempfile.mkstemp(dir=folder, prefix=".probe-")
        os.close(handle)
        os.unlink(probe)
    except OSError as error:
        raise WrongCall(
            f"output={folder} cannot be written ({error.strerror}); "
            "name another folder: output=FOLDER."
        ) from None


def listed(value) -> list[str]:
    """The values of a key that takes one or several."""
    return [str(v) for v in value] if isinstance(value, ListConfig) else [str(value)]
