"""What every test shares: pinned threads, and real patients where there are some."""

import os

# Before numpy is imported: a BLAS pool beside numba's own threads only costs, and its split of a
# sum depends on the number of threads.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


def _find_openkbp() -> Path | None:
    named = os.environ.get("PTENV_OPENKBP")
    folder = Path(named).expanduser() if named else ROOT.parent / "shared" / "openkbp"
    if (folder / "train-pats").is_dir():
        return folder
    if named:  # a wrong setting must not look like a green run
        raise pytest.UsageError(
            f"PTENV_OPENKBP={named} has no folder train-pats; correct the path or unset it."
        )
    return None


@pytest.fixture(scope="session")
def openkbp_dir() -> Path:
    """Folder of the OpenKBP patients (train-pats/pt_1.zip or train-pats/pt_1/, …)."""
    folder = _find_openkbp()
    if folder is None:
        pytest.skip("no OpenKBP patients here; PTENV_OPENKBP names their folder (with train-pats/)")
    return folder


@pytest.fixture(scope="session")
def openkbp_pt_1(openkbp_dir: Path) -> Path:
    """The first OpenKBP patient: zip or folder, as it was found."""
    for path in (openkbp_dir / "train-pats" / "pt_1.zip", openkbp_dir / "train-pats" / "pt_1"):
        if path.exists():
            return path
    pytest.skip(f"{openkbp_dir} holds neither train-pats/pt_1.zip nor train-pats/pt_1")

TINY_SUITE = '''
name = "tiny"
version = 0
description = "A small suite for tests."
n_runs = 2
seed = 1

[train]
"head-and-neck-" = [0, 9999]

[[tasks]]
name = "voxel-mask"
env_id = "ptenv/VoxelMask-mini-v0"
budgets = [0.1, 0.2]
test = ["head-and-neck-20000..20001"]
settings = {recipe = {ct_spacing_mm = 6, dose_grid_mm = 6, spot_spacing_mm = 9, \
n_anchor_masks = 3, converged_evaluations = 60, quality_evaluations = 20}}

[[tasks]]
name = "dose-shaping"
env_id = "ptenv/DoseShaping-mini-v0"
budgets = [0]
test = ["head-and-neck-20000"]
settings = {recipe = {ct_spacing_mm = 6, dose_grid_mm = 8, n_goals = 2, \
converged_evaluations = 40, direct_evaluations = 30, quality_evaluations = 10}}
'''


@pytest.fixture(scope="session")
def tiny_suite_file(tmp_path_factory) -> Path:
    """A frozen suite of three tiny cases; the caller has set a case cache for tests."""
    from ptenv.benchmark.freezing import freeze, frozen_case, names_of, write_frozen
    from ptenv.benchmark.suite import Data, load_suite

    definition = tmp_path_factory.mktemp("suites") / "tiny.toml"
    definition.write_text(TINY_SUITE, encoding="utf-8")
    suite, data = load_suite(definition, frozen=False), Data()
    cases = {(t.name, c): frozen_case(t, c, data) for t in suite.tasks for c in names_of(t)}
    headroom = {t.env_id: {"env_id": t.env_id, "is_enough": True} for t in suite.tasks}
    write_frozen(freeze(suite, definition, data, headroom, cases), definition)
    return definition
