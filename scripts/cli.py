"""The command line: ``ptenv COMMAND key=value …``, with Hydra's overrides and ``-m`` for sweeps.

A command is a module of this package with a function ``run(cfg)`` and a configuration of the same
name at the top of ``conf/``; a new pair is a new command. Two words are one name with an
underscore: ``ptenv benchmark run`` is scripts/benchmark_run.py.
"""

import ast
import difflib
import importlib
import os
import sys
from pathlib import Path

from scripts.quoting import quoted

CONF = "conf"
EXIT_USAGE = 2
# what a person says → the command and experiment that do it: sampling networks have their own study
SHORT = {("evaluate", "agent=pnet"): ("study", "pnet")}
ALONE = {  # the key of values that stand without one
    "benchmark_run": "agents", "benchmark_validate": "submissions",
    "benchmark_table": "submissions",
}  # fmt: skip
A_PERSON_CAN_MEND = (ValueError, KeyError, OSError)

USAGE = """\
ptenv COMMAND key=value …

{commands}

  key=value          sets a value (ptenv plan patient.seed=3) or a choice of a group (patient=tg119)
  -m key=a,b         runs every combination
  --help             of a command: its groups, choices and values (ptenv plan --help)
  --cfg job          of a command: prints the configuration that it would run
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code (2: the call was wrong)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if arguments else EXIT_USAGE
    name, *rest = _named(_in_full(arguments))
    if name in ("-V", "--version"):
        return _print_version()
    if name not in commands():
        return _refuse(f"`{_spoken(name)}` is no command.{_did_you_mean(name)}\n\n{_usage()}")
    _pin_threads()
    return _run(name, rest)


def _in_full(arguments: list[str]) -> list[str]:
    """The call with a short form of SHORT spelled out."""
    name, *rest = arguments
    for (command, choice), (other, experiment) in SHORT.items():
        if name == command and choice in rest:
            named = [word for word in rest if word.startswith("experiment=")]
            more = [word.removeprefix("experiment=").strip("[]") for word in named]
            others = [word for word in rest if word not in (choice, *named)]
            return [other, f"experiment=[{','.join([experiment, *more])}]", *others]
    return arguments


def _named(arguments: list[str]) -> list[str]:
    """The call with a command of two words under its one name, and lone values under their key."""
    name, *rest = arguments
    if rest and f"{name}_{rest[0]}" in commands():
        name, rest = f"{name}_{rest[0]}", rest[1:]
    elif name not in commands() and any(c.startswith(f"{name}_") for c in commands()):
        name, rest = "_".join([name, *rest[:1]]), rest[1:]
    alone = [quoted(word) for word in rest if _is_alone(word)]
    if name not in ALONE or not alone:
        return [name, *rest]
    value = alone[0] if len(alone) == 1 else f"[{','.join(alone)}]"
    return [name, f"{ALONE[name]}={value}", *(word for word in rest if not _is_alone(word))]


def _is_alone(word: str) -> bool:
    return "=" not in word and not word.startswith(("-", "~", "+"))


def _spoken(name: str) -> str:
    """A command as it is called: ``benchmark run``."""
    return name.replace("_", " ")


def commands() -> dict[str, str]:
    """Name of every command and the first line of its module's docstring."""
    here = Path(__file__).parent
    configurations = {p.stem for p in (here.parent / CONF).glob("*.yaml")}
    pages = sorted(p for p in here.glob("*.py") if p.stem in configurations)
    return {p.stem: _first_line(p) for p in pages}


def _first_line(page: Path) -> str:
    docstring = ast.get_docstring(ast.parse(page.read_text(encoding="utf-8"))) or ""
    return docstring.splitlines()[0] if docstring else ""


def _usage() -> str:
    known = commands()
    width = max(map(len, known))
    lines = (f"  {_spoken(n):<{width}}  {text}" for n, text in known.items())
    return USAGE.format(commands="\n".join(lines))


def _did_you_mean(name: str) -> str:
    near = difflib.get_close_matches(name, commands(), n=1)
    return f" Did you mean `{_spoken(near[0])}`?" if near else ""


def _print_version() -> int:
    from importlib.metadata import version

    print(f"ptenv {version('ptenv')}")
    return 0


def _refuse(message: str) -> int:
    print(f"ptenv: {message}", file=sys.stderr)
    return EXIT_USAGE


def _pin_threads() -> None:
    """One BLAS thread, before numpy loads: numba has its own, and sums keep their order."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


def _run(name: str, arguments: list[str]) -> int:
    try:
        from scripts import configuration
    except ModuleNotFoundError as missing:
        return _refuse(f"{missing.name} is not installed; pip install 'ptenv[agents]'.")
    try:
        arguments = configuration.checked(name, arguments)
    except configuration.WrongCall as wrong:
        return _refuse(f"{_spoken(name)}: {wrong}")
    return _hydra(name, arguments)


def _hydra(name: str, arguments: list[str]) -> int:
    """Hand over to Hydra, which reads the command line itself."""
    import hydra

    def task(cfg):
        return _guarded(name, importlib.import_module(f"scripts.{name}").run, cfg)

    entry = hydra.main(version_base="1.3", config_path=f"pkg://{CONF}", config_name=name)(task)
    before, sys.argv = sys.argv, [f"ptenv {name}", *arguments]
    try:
        entry()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print(f"\nptenv: {_spoken(name)}: stopped.", file=sys.stderr)
        return 130  # as shells count an interrupt
    finally:
        sys.argv = before
    return 0


def _guarded(name: str, run, cfg):
    """What a person can put right ends in one sentence; anything else is a bug with its trace."""
    try:
        return run(cfg)
    except Exception as error:
        cause = _cause(error)
        if _is_elsewhere():  # the launcher hands it on; an exit would look like a lost worker
            raise
        if os.environ.get("HYDRA_FULL_ERROR") or not isinstance(cause, A_PERSON_CAN_MEND):
            raise
        where = "(HYDRA_FULL_ERROR=1 shows where this was raised.)"
        _refuse(f"{_spoken(name)}: {_sentence(cause)}\n{where}")
        raise SystemExit(EXIT_USAGE) from None


def _is_elsewhere() -> bool:
    """Whether this is a job that another launcher than Hydra's own started."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized():
        return False
    hydra = HydraConfig.get()
    return hydra.mode == RunMode.MULTIRUN and not hydra.launcher._target_.endswith("BasicLauncher")


def _cause(error: BaseException) -> BaseException:
    """What a constructor raised, where Hydra wrapped it."""
    from hydra.errors import InstantiationException

    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return _cause(error.__cause__)
    return error


def _sentence(error: BaseException) -> str:
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])  # str(KeyError) is the repr of its message
    return str(error) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
