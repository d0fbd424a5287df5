"The wheel, in an empty environment with only the core requirements: complete, light, importable."
import configparser
import os
import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# modules that need no framework
LIGHT = ["basics", "graph", "taxonomy", "datasets", "shapes", "preprocessing", "metrics", "decisions", "report", "plots", "batches",
         "checkpoints", "records", "models", "checks", "runs", "coarse_words", "coarse_extraction", "coarse_files"]


@pytest.fixture(scope="module")
def settings():
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    "The interpreter of an empty environment with the wheel and the core requirements in it."
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=True)
    found = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    # the checkout on PYTHONPATH holds an egg-info after `pip install -e`: pip would take the package for installed
    done = subprocess.run([found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel], env=outside(), capture_output=True, text=True)
    if done.returncode and any(s in done.stderr for s in ("NewConnectionError", "Temporary failure in name resolution", "No matching distribution found for numpy")):
        pytest.skip("no package index within reach: the wheel's requirements cannot be installed")
    assert done.returncode == 0, done.stderr[-2000:]
    return found


def outside():
    "The environment variables without those that would show Python the checkout."
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}


def run(python, code, folder):
    "What a program prints in the empty environment, from a folder outside the checkout."
    done = subprocess.run([python, "-c", code], cwd=folder, env=outside(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_the_wheel_holds_package_data_and_licence_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as z: names = set(z.namelist())
    package = {p.relative_to(ROOT).as_posix() for p in (ROOT / "hierlearn").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    package |= {f"hierlearn/results/{p.name}" for p in (ROOT / "nbs" / "results").iterdir() if p.suffix in (".json", ".npz")}
    assert package <= names
    assert {n for n in names if not n.startswith("hierlearn-")} == package
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert any(n.endswith("licenses/NOTICE") for n in names)
    assert wheel.stat().st_size < 16_000_000


def test_metadata(wheel, settings):
    with zipfile.ZipFile(wheel) as z:
        [name] = [n for n in z.namelist() if n.endswith("METADATA")]
        text = z.read(name).decode()
    extras = {line.split(": ")[1] for line in text.splitlines() if line.startswith("Provides-Extra: ")}
    assert {"keras", "torch", "offline", "export", "cluster", "app", "course", "dev"} <= extras
    assert "License-Expression: Apache-2.0" in text
    assert "Requires-Python: <3.14,>=3.11" in text or "Requires-Python: >=3.11,<3.14" in text
    core = [line.split(": ")[1] for line in text.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert sorted(core) == sorted(settings["requirements"].split())
    # the bounds that nbdev needs bind developers, not users
    for extra in ("torch", "course"):
        assert not [line for line in text.splitlines() if line.startswith("Requires-Dist: fast") and f'extra == "{extra}"' in line and "<" in line.split(";")[0]]


def test_it_imports_without_a_framework(python, tmp_path):
    assert run(python, "import hierlearn; print(hierlearn.__version__)", tmp_path)
    modules = [m for m in LIGHT if (ROOT / "hierlearn" / f"{m}.py").exists()]
    code = f"""
import importlib, sys
for name in {modules}: importlib.import_module('hierlearn.' + name)
print(*sorted(set(m.split('.')[0] for m in sys.modules) & {{'tensorflow', 'keras', 'torch', 'fastai', 'fastcore', 'nbdev', 'IPython'}}))
"""
    assert run(python, code, tmp_path) == ""


def test_it_works_and_finds_its_data(python, tmp_path):
    code = """
from hierlearn.taxonomy import SHAPES_HIERARCHY, Taxonomy
from hierlearn.shapes import load_shapes
tree = Taxonomy.imagenet()
data = load_shapes(n_train=40, n_test=20)
from hierlearn.plots import show_explorer
from hierlearn.records import read_record
assert "<iframe" in show_explorer("pooling")._repr_html_()
print(len(tree), len(Taxonomy.from_groups(SHAPES_HIERARCHY)), data.train.images.shape, read_record("alexnet_small", "quick").metrics["parameters"])
"""
    assert run(python, code, tmp_path) == "1000 20 (40, 32, 32, 3) 2887306"


@pytest.mark.parametrize("module", [m for m in ("alexnet_small", "keras_training", "torch_training") if (ROOT / "hierlearn" / f"{m}.py").exists()])
def test_a_lesson_without_its_framework_says_what_to_install(python, module, tmp_path):
    code = f"""
try: import hierlearn.{module}
except ImportError as error: print(error)
"""
    said = run(python, code, tmp_path)
    assert "pip install" in said and "hierlearn[" in said and "\n" not in said
