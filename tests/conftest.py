"""Fixtures for real data, the wheel and a browser, and what continuous integration asks: there a skipped test is a
failure, unless its reason names a GPU or a feature of the processor."""
import os
import shutil
import subprocess
import sys
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


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    "A wheel built from a copy of the checkout, without isolation: setuptools is part of the development extra."
    copy = tmp_path_factory.mktemp("source") / "hierlearn"
    copy.mkdir()
    for name in ("settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE",
                 "CHANGELOG.md", "CITATION.cff"): shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "hierlearn", copy / "hierlearn", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "nbs" / "results", copy / "nbs" / "results")
    made = subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."], cwd=copy, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    assert len(list((copy / "dist").glob("*.tar.gz"))) == 1
    [found] = (copy / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    "A folder that holds the wheel's package alone."
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, wheel],
                   check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def browser():
    "Chromium without a window and without a life of its own on the network."
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("HIERLEARN_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not found: pytest.skip("no Chromium: install it, or set HIERLEARN_CHROMIUM, to run the browser tests")
    sync_api = pytest.importorskip("playwright.sync_api")
    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--disable-default-apps", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=quiet)
        yield browser
        browser.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if not os.environ.get("CI") or not report.skipped or hasattr(report, "wasxfail"): return
    reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
    # a machine may lack a GPU, or an instruction set: bfloat16, AVX-512, AMX
    if any(word in reason.lower() for word in ("gpu", "cuda", "bfloat16", "avx", "amx", "processor")): return
    report.outcome = "failed"
    report.longrepr = f"{item.nodeid} was skipped, which counts as a failure here: {reason}"


def pytest_collectreport(report):
    # a whole module that skips itself (importorskip) is no better
    if os.environ.get("CI") and report.skipped: report.outcome = "failed"
