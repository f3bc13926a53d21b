"""Pages of the environments, made from their docstrings, arguments and registered ids."""

import dataclasses
import inspect
import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym

import ptenv
from ptenv.cases.library import KINDS
from ptenv.registration import IDS
from scripts.build_docs_pictures import CASE, DRAWN

gym.register_envs(ptenv)

FOLDER = Path(__file__).parent / "environments"
FAMILIES = {  # page: title, and the page that tells more
    "voxel_mask": SimpleNamespace(title="Voxel mask", more="environments"),
    "energy_layer": SimpleNamespace(title="Energy layers of an arc", more="energy_layer"),
    "dose_shaping": SimpleNamespace(title="Dose shaping", more="dose_shaping"),
}


def write_pages(folder: Path = FOLDER) -> None:
    """One page a family; a file that would be the same is left as it is."""
    for name in FAMILIES:
        text, path = page(name), folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def page(family: str) -> str:
    """The Markdown of a family's page."""
    made, ids = environment_class(family), ids_of(family)
    summary, manual = sections(made)
    about, drawn = FAMILIES[family], DRAWN[family]
    budget = ", ".join(f"{k}={v}" for k, v in drawn.budget.items())
    return "\n".join([
        f"# {about.title}",
        "",
        f"{summary} [Units, anchors, traps and baselines](../{about.more}.md) are on a page of "
        "their own.",
        "",
        f"![Plan after an episode of {drawn.id}]({family}.png)",
        "",
        f"*`{drawn.id}` on {CASE} with {budget}, after an episode of {drawn.baseline}, as "
        '`render_mode="rgb_array"` draws it.*',
        "",
        "## Ids",
        "",
        *id_table(ids),
        "",
        manual,
        "",
        "## Settings of `recipe`",
        "",
        f"Fields of `{recipe_of(family).__module__}.{recipe_of(family).__name__}`, whose docstring "
        "tells more; what a preset leaves as it is stands empty.",
        "",
        *recipe_table(family),
        "",
    ])  # fmt: skip


def environment_class(family: str) -> type[gym.Env]:
    """The class behind a family's ids."""
    return getattr(_module(family), IDS[ids_of(family)[0]].entry_point.partition(":")[2])


def ids_of(family: str) -> list[str]:
    """Registered ids whose class stands in ``ptenv.envs.FAMILY``."""
    module = f"ptenv.envs.{family}:"
    return [name for name, made in IDS.items() if made.entry_point.startswith(module)]


def sections(made: type) -> tuple[str, str]:
    """First line of a class's docstring, and its sections under headings of a page."""
    summary, _, rest = inspect.cleandoc(made.__doc__).partition("\n")
    table = "\n".join(argument_table(made))
    rest = rest.replace("### Arguments\n", f"### Arguments\n{table}\n\n")
    rest = re.sub(r"([^\n|])\n(\|)", r"\1\n\n\2", rest)  # Markdown wants a table to stand alone
    return summary, re.sub(r"^### ", "## ", rest.replace("``", "`"), flags=re.MULTILINE).strip()


def id_table(ids: list[str]) -> list[str]:
    """Settings, thresholds and spaces of ids as they are registered."""
    rows = [["id", "arguments", "solved at a return of", "most steps", "actions", "observations"]]
    for name in ids:
        made, env = IDS[name], gym.make(name).unwrapped
        settings = ", ".join(f"`{k}={v!r}`" for k, v in made.settings.items()) or "defaults"
        steps = made.max_episode_steps or "no limit"
        rows.append([
            f"`{name}`", settings, f"{made.reward_threshold:g}", f"{steps}",
            f"`{_space(env.action_space)}`", _observations(env.observation_space),
        ])  # fmt: skip
    return _table(rows)


def argument_table(made: type) -> list[str]:
    """Every argument of ``__init__`` with its type and default."""
    rows = [["argument", "type", "default"]]
    for argument in arguments_of(made):
        kind = inspect.formatannotation(argument.annotation).replace("|", "or")
        rows.append([f"`{argument.name}`", kind, f"`{argument.default!r}`"])
    return _table(rows)


def arguments_of(made: type) -> list[inspect.Parameter]:
    return [p for name, p in inspect.signature(made).parameters.items() if name != "self"]


def recipe_table(family: str) -> list[str]:
    """Every setting of a family's cases, and what its presets change."""
    presets = {name: of for name, of in _module(family).PRESETS.items() if of}
    rows = [["setting", "default", *presets]]
    for setting in dataclasses.fields(recipe_of(family)):
        name = setting.name
        if name != "patient":  # the argument case
            changed = [f"`{of[name]!r}`" if name in of else "" for of in presets.values()]
            rows.append([f"`{name}`", f"`{setting.default!r}`", *changed])
    return _table(rows)


def recipe_of(family: str) -> type:
    """The recipe of a family's cases: what its environment module imports to make them."""
    kinds = [kind.recipe for kind in KINDS.values()]
    (recipe,) = [r for r in kinds if getattr(_module(family), r.__name__, None) is r]
    return recipe


def _observations(space: gym.Space) -> str:
    if not isinstance(space, gym.spaces.Dict):
        return f"`{_space(space)}`"
    return ", ".join(f"{name}: `{_space(part)}`" for name, part in space.items())


def _space(space: gym.Space) -> str:
    """A space as the docstrings write it."""
    if not isinstance(space, gym.spaces.Box):
        return str(space)
    low, high = float(space.low.min()), float(space.high.max())
    return f"Box({low:g}, {high:g}, {space.shape})".replace("-", "−")


def _table(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _module(family: str):
    return import_module(f"ptenv.envs.{family}")
