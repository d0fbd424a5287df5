"Fixtures for real data, and what continuous integration asks: there a skipped test is a failure, unless its reason names a GPU."
import os
from pathlib import Path

import pytest

os.environ.setdefault("HIERLEARN_PROFILE", "tiny")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Triton, which torch loads when it first optimises, crashes the process when TensorFlow was there before it: load it first
try: import triton  # noqa: F401
except ImportError: pass

ROOT = Path(__file__).resolve().parent.parent


def _shared():
    folder = Path(os.environ.get("HIERLEARN_SHARED", ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


if _shared() and (_shared() / "nltk_data").is_dir(): os.environ.setdefault("NLTK_DATA", str(_shared() / "nltk_data"))


@pytest.fixture(scope="session")
def repository():
    "The checkout: settings.ini, nbs/, docs/."
    return ROOT


@pytest.fixture(scope="session")
def data_folder():
    "The folder of unpacked real data, $HIERLEARN_DATA."
    folder = os.environ.get("HIERLEARN_DATA")
    if not folder or not Path(folder).is_dir(): pytest.skip("no real data: set HIERLEARN_DATA to a folder with them")
    return Path(folder)


def _part(name, title):
    @pytest.fixture(scope="session")
    def fixture(data_folder):
        if not (data_folder / name).is_dir(): pytest.skip(f"no {title}: {name} is not in HIERLEARN_DATA")
        return data_folder
    fixture.__doc__ = f"The data folder, with {title} in it."
    return fixture


cifar_root = _part("cifar-10-batches-py", "CIFAR-10")
cifar100_root = _part("cifar-100-python", "CIFAR-100")
pets_root = _part("oxford-iiit-pet", "the Oxford-IIIT pets")
petimages_root = _part("PetImages", "cats and dogs")
imagenet_root = _part("imagenet-samples", "the ImageNet samples")


@pytest.fixture(scope="session")
def shared_data():
    "The folder of packed real data and of WordNet beside the checkout."
    if _shared() is None: pytest.skip("no packed data: no ../shared/data beside the checkout, and HIERLEARN_SHARED is not set")
    return _shared()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if not os.environ.get("CI") or not report.skipped or hasattr(report, "wasxfail"): return
    reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if "gpu" in reason.lower() or "cuda" in reason.lower(): return
    report.outcome = "failed"
    report.longrepr = f"{item.nodeid} was skipped, which counts as a failure here: {reason}"


def pytest_collectreport(report):
    # a whole module that skips itself (importorskip) is no better
    if os.environ.get("CI") and report.skipped: report.outcome = "failed"
