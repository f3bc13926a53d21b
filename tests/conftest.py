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
