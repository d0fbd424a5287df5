"The house rules that a machine can check: notebooks, imports, what the package loads, what the tests touch, what the repository may hold."
import ast
import configparser
import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hierlearn

ROOT = Path(__file__).resolve().parent.parent
NBS, PACKAGE = ROOT / "nbs", Path(hierlearn.__file__).resolve().parent
NOTEBOOKS = sorted(NBS.glob("*.ipynb"))
FRAMEWORKS = {"tensorflow", "keras", "torch", "torchvision", "fastai", "accelerate", "timm", "jax", "onnx", "onnxruntime", "gradio", "dask", "distributed"}
DEVELOPMENT = {"nbdev", "fastcore", "execnb", "pytest"}


def cells(path): return json.loads(path.read_text(encoding="utf-8"))["cells"]
def source(cell): return "".join(cell["source"])


def default_exp(path):
    "The module a notebook exports, or None."
    found = [m[1] for cell in cells(path) if cell["cell_type"] == "code" for m in re.finditer(r"^#\|\s*default_exp\s+(\S+)", source(cell), re.M)]
    return found[0] if found else None


# module -> number of its notebook
NUMBERS = {default_exp(p): int(p.stem[:2]) for p in NOTEBOOKS if default_exp(p) and p.stem[:2].isdigit()}
MODULES = sorted(NUMBERS, key=NUMBERS.get)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
each_module = pytest.mark.parametrize("module", MODULES)


def tree(module): return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def imported(nodes):
    "Names of the modules that statements import."
    for node in nodes:
        if isinstance(node, ast.Import): yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ("hierlearn." if node.level else "") + (node.module or "")
            yield base.rstrip(".")
            if base.rstrip(".") == "hierlearn": yield from (f"hierlearn.{a.name}" for a in node.names)


def at_module_level(node):
    "Statements that run when a module is imported: everything but the bodies of functions."
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)): continue
        yield child
        yield from at_module_level(child)


def exported(module):
    "The names of a module's __all__."
    for node in tree(module).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__": return ast.literal_eval(node.value)
    return []


# notebooks

@each_notebook
def test_every_cell_has_a_lasting_id(path):
    ids = [cell.get("id") for cell in cells(path)]
    assert all(ids), f"{path.name} has cells without an id: write the notebook with nbformat 4.5"
    assert len(set(ids)) == len(ids), f"{path.name} has two cells with one id"


@each_notebook
def test_saved_outputs_are_small_and_quiet(path):
    saved = [(cell["id"], output) for cell in cells(path) for output in cell.get("outputs", [])]
    size = sum(len(json.dumps(output)) for _, output in saved)
    assert size <= 300_000, f"{path.name} holds {size / 1000:.0f} KB of outputs; 300 KB are allowed"
    for cell, output in saved:
        assert output.get("name") != "stderr", f"{path.name}, cell {cell}: saved stderr"
        assert output["output_type"] != "error", f"{path.name}, cell {cell}: saved error"
        assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {}), f"{path.name}, cell {cell}: a widget, which needs a kernel"
        text = "".join(output.get("text", "")) + "".join(output.get("data", {}).get("text/plain", ""))
        assert not re.search(r"\d+%\|[█▏▎▍▌▋▊▉ ]*\|", text), f"{path.name}, cell {cell}: a saved progress bar"
        assert not re.search(r"\b0x[0-9a-f]{8,}", text), f"{path.name}, cell {cell}: an address in memory, which changes at each run"


@each_notebook
def test_notebooks_stay_readable(path):
    found = cells(path)
    assert "widgets" not in json.loads(path.read_text(encoding="utf-8"))["metadata"]
    assert len(found) <= 110, f"{path.name} has {len(found)} cells: split it"
    first = source(found[0])
    assert re.match(r"# \S.*\n\n> \S.*", first), f"{path.name} begins with a title and a one-line subtitle (# ..., empty line, > ...)"


def test_no_two_notebooks_export_one_module():
    names = [default_exp(p) for p in NOTEBOOKS if default_exp(p)]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)


@each_notebook
def test_cells_import_or_work_not_both(path):
    # a mixed cell is executed when the docs are built
    for cell in cells(path):
        text = source(cell)
        if cell["cell_type"] != "code" or re.search(r"^#\|\s*(export|exports|exporti|eval:\s*false|echo:\s*false|hide)\b", text, re.M) or re.search(r"^[%!]", text, re.M): continue
        body = ast.parse(text).body
        imports = [n for n in body if isinstance(n, (ast.Import, ast.ImportFrom))]
        assert not imports or len(imports) == len(body), f"{path.name}, cell {cell['id']}: imports sit in cells of their own"


@each_notebook
def test_no_star_imports_and_no_patch(path):
    for cell in cells(path):
        if cell["cell_type"] != "code": continue
        assert not re.search(r"^\s*from\s+\S+\s+import\s+\*", source(cell), re.M), f"{path.name}, cell {cell['id']}: a star import"
        assert not re.search(r"^@patch\b", source(cell), re.M), f"{path.name}, cell {cell['id']}: @patch makes fastcore a runtime dependency"


# modules

@each_module
def test_imports_point_to_lower_numbers(module):
    for name in imported(ast.walk(tree(module))):
        if not name.startswith("hierlearn."): continue
        other = name.split(".")[1]
        if other not in NUMBERS: continue
        lesson_to_lesson = NUMBERS[module] >= 10 and 10 <= NUMBERS[other] < 20 and NUMBERS[module] < 20
        if (module, other) == ("hdcnn", "elu_cifar100"): continue
        assert NUMBERS[other] < NUMBERS[module], f"{module} imports {other}, which comes later"
        assert not lesson_to_lesson, f"the lesson {module} imports the lesson {other}"


@each_module
def test_what_a_module_imports_at_once(module):
    top = {name.split(".")[0] for name in imported(at_module_level(tree(module)))}
    assert not top & DEVELOPMENT, f"{module} needs {top & DEVELOPMENT} at run time"
    if NUMBERS[module] < 10 or module in ("coarse_extraction", "cli"):
        assert not top & FRAMEWORKS, f"{module} imports {top & FRAMEWORKS} at module level; import it inside the functions, with import_extra"
    everywhere = {name.split(".")[0] for name in imported(ast.walk(tree(module)))}
    assert not everywhere & DEVELOPMENT, f"{module} needs {everywhere & DEVELOPMENT} at run time"


@pytest.mark.parametrize("module", [m for m in MODULES if NUMBERS[m] < 10])
def test_foundations_load_no_framework(module):
    heavy = FRAMEWORKS | DEVELOPMENT
    code = f"import sys, hierlearn.{module}; print(*sorted(set(m.split('.')[0] for m in sys.modules) & {heavy!r}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_the_package_itself_loads_nothing_heavy():
    code = "import sys; before = set(sys.modules); import hierlearn; print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["hierlearn"]


def documented_parameters(node, lines):
    "Parameters of a function, and those among them with a comment on their line or before the next parameter."
    arguments = [a for a in (*node.args.posonlyargs, *node.args.args, node.args.vararg, *node.args.kwonlyargs, node.args.kwarg) if a is not None]
    names = [a.arg for a in arguments if a.arg not in ("self", "cls")]
    end = node.body[0].lineno
    head = "\n".join(lines[node.lineno - 1 : end])
    return names, [n for n in names if re.search(rf"^\s*(def \w+\(\s*)?\*{{0,2}}{re.escape(n)}\b[^#\n]*#\s*\S", head, re.M)]


@each_module
def test_exported_functions_are_documented(module):
    lines = (PACKAGE / f"{module}.py").read_text(encoding="utf-8").splitlines()
    names, problems = set(exported(module)), []
    for node in tree(module).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name not in names: continue
        if not ast.get_docstring(node): problems.append(f"{node.name} has no docstring")
        functions = [node] if isinstance(node, ast.FunctionDef) else [f for f in node.body if isinstance(f, ast.FunctionDef) and (f.name == "__init__" or not f.name.startswith("_"))]
        for f in functions:
            if f is node:
                wanted, found = documented_parameters(f, lines)
                if missing := sorted(set(wanted) - set(found)): problems.append(f"{f.name} says nothing about {', '.join(missing)}")
            elif f.name == "__init__":
                wanted, found = documented_parameters(f, lines)
                if missing := sorted(set(wanted) - set(found)): problems.append(f"{node.name} says nothing about {', '.join(missing)}")
    assert not problems, f"{module}: " + "; ".join(problems)


@each_module
def test_every_exported_name_is_touched_by_a_test(module):
    touched = set()
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path == Path(__file__).resolve(): continue
        text = path.read_text(encoding="utf-8")
        if not re.search(rf"hierlearn(\.| import .*\b){module}\b", text): continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Name): touched.add(node.id)
            elif isinstance(node, ast.Attribute): touched.add(node.attr)
    missing = sorted(set(exported(module)) - touched)
    assert not missing, f"no test of the installed package touches {module}'s {', '.join(missing)}"


@each_module
def test_all_is_true(module):
    if NUMBERS[module] >= 10 and module != "coarse_extraction": pytest.importorskip("keras" if module in ("alexnet_small", "elu_cifar100", "hdcnn") else "torch")
    found = __import__(f"hierlearn.{module}", fromlist=["*"])
    assert [name for name in found.__all__ if not hasattr(found, name)] == []
    assert inspect.getdoc(found), f"{module} has no docstring: the notebook's subtitle makes it"


# metadata

def settings():
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def test_one_version_everywhere():
    s, project = settings(), tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert hierlearn.__version__ == s["version"]
    assert f"\nversion: {s['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {s['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert project["name"] == s["lib_name"]
    assert (project["license"], s["license"]) == ("Apache-2.0", "apache2")
    low, high = (int(s[k].split(".")[1]) for k in ("min_python", "max_python"))
    assert project["requires-python"] == f">=3.{low},<3.{high + 1}"


def test_the_core_is_light():
    names = {re.split(r"[<>=!~\[]", r)[0] for r in settings()["requirements"].split()}
    assert names == {"numpy", "pillow", "scikit-learn", "matplotlib", "seaborn", "nltk", "tqdm"}


def test_the_core_covers_what_the_foundations_import():
    names = {"PIL": "pillow", "sklearn": "scikit-learn"}
    core = {re.split(r"[<>=!~\[]", r)[0] for r in settings()["requirements"].split()} | {"hierlearn", "scipy"}  # scipy comes with scikit-learn
    for module in MODULES:
        if NUMBERS[module] >= 10: continue
        top = {name.split(".")[0] for name in imported(at_module_level(tree(module)))} - set(sys.stdlib_module_names)
        assert {names.get(n, n) for n in top} <= core, f"{module} imports {top} at module level"


# the repository

def tracked():
    "Text files of the repository."
    try: listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError): listed = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file() and not any(q.startswith(".") for q in p.relative_to(ROOT).parts)]
    for name in listed:
        path = ROOT / name
        if path.is_file() and path.suffix not in (".png", ".npz", ".woff2", ".woff", ".gz", ".webp", ".ico") and not name.startswith(("docs/site_libs/", "nbs/styles/katex/")): yield name, path


def test_no_path_of_one_machine():
    pattern = re.compile(r"(?<![.\w/:<])/(home|srv|work|farm|root|Users)/[\w.-]+")
    problems = [f"{name}: {m[0]}" for name, path in tracked() if name != "tests/test_hygiene.py" for m in [pattern.search(path.read_text(encoding="utf-8", errors="replace"))] if m]
    assert not problems, "\n".join(problems)


def test_nothing_is_left_open():
    pattern = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    problems = [name for name, path in tracked() if path.suffix in (".py", ".ipynb", ".md") and not name.startswith("docs/") and pattern.search(path.read_text(encoding="utf-8", errors="replace"))]
    assert not problems, problems


def test_no_big_files():
    problems = [f"{name}: {path.stat().st_size / 1e6:.1f} MB" for name, path in tracked() if path.stat().st_size > 3_000_000]
    assert not problems, problems


def test_index_shows_the_records():
    "The table of the front page is what its cell makes from the records."
    path = NBS / "index.ipynb"
    [cell] = [c for c in cells(path) if c["cell_type"] == "code" and "quick.json" in source(c)]
    pytest.importorskip("IPython")
    code = source(cell).rsplit("\n", 1)[0] + "\nprint('\\n'.join(rows))"
    made = subprocess.run([sys.executable, "-c", code], cwd=NBS, capture_output=True, text=True, check=True).stdout.strip()
    assert "".join(cell["outputs"][0]["data"]["text/markdown"]).strip() == made, "run the index notebook again: make prepare does not save outputs"
