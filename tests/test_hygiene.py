"House rules that a machine can check: rooms, imports, what is loaded, what is tested, what is kept."
import ast
import configparser
import io
import json
import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

import hierlearn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from rooms import EXPORT, at_once, cells, default_exp, drawing, imported, rooms, source, tree, used_rooms  # noqa: E402

NBS, PACKAGE = ROOT / "nbs", Path(hierlearn.__file__).resolve().parent
NOTEBOOKS = sorted(NBS.glob("*.ipynb"))
NUMBERS = rooms()
LIGHT = [m for m, n in NUMBERS.items() if n <= 8 or n in (10, 11, 16)]
FRAMEWORKS = {
    "tensorflow", "keras", "torch", "torchvision", "fastai", "accelerate", "timm", "jax", "onnx", "onnxruntime",
    "gradio", "dask", "distributed", "joblib", "pandas", "seaborn", "scipy", "sklearn", "nltk"}
DEVELOPMENT = {"nbdev", "fastcore", "execnb", "pytest", "IPython"}
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
each_module = pytest.mark.parametrize("module", NUMBERS)


def code_cells(path): return [c for c in cells(path) if c["cell_type"] == "code"]


def exported(module):
    "The names of a module's __all__."
    found = [n.value for n in tree(module).body
             if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"]
    return ast.literal_eval(found[0]) if found else []


# rooms

def counted_lines(code):
    "Exported lines of a cell: not blank, no comment alone on its line, no docstring, no documented parameter."
    lines = code.splitlines()
    left = {i for i, line in enumerate(lines, 1) if line.strip() and not line.strip().startswith("#")}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            first = node.body[0]
            if ast.get_docstring(node, clean=False) is not None: left -= set(range(first.lineno, first.end_lineno + 1))
        if isinstance(node, ast.arg) and re.search(r",?\s*#\s*\S", lines[node.lineno - 1]): left.discard(node.lineno)
    return len(left)


@each_notebook
def test_a_room_is_small(path):
    found = cells(path)
    assert len(found) <= 60, f"{path.name} has {len(found)} cells; 60 are allowed: split it"
    lines = sum(counted_lines(source(c)) for c in code_cells(path) if EXPORT.search(source(c)))
    assert lines <= 400, f"{path.name} exports {lines} lines; 400 are allowed: split it"


def message_lines(code):
    "Lines that hold a long string which is no docstring: these may have 100 characters."
    code = re.sub(r"^([%!])", r"#\1", code, flags=re.M)
    docs = {n.body[0].lineno for n in ast.walk(ast.parse(code))
            if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.Module)) and n.body
            and isinstance(n.body[0], ast.Expr) and isinstance(n.body[0].value, ast.Constant)}
    kinds = {tokenize.STRING, getattr(tokenize, "FSTRING_START", -1)}
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return {t.start[0] for t in tokens if t.type in kinds} - docs


def too_long(code):
    "Lines of code over 88 characters, or over 100 where a message stands in them."
    long = [(i, line) for i, line in enumerate(code.splitlines(), 1) if len(line) > 88]
    allowed = message_lines(code) if long else ()
    return [line for i, line in long if len(line) > 100 or i not in allowed]


@each_notebook
def test_lines_fit_the_page(path):
    found = [f"{c['id']}: {line.strip()[:60]}…" for c in code_cells(path) for line in too_long(source(c))]
    assert not found, f"{path.name}: {len(found)} lines over 88 characters (100 with a message):\n" + "\n".join(found[:9])


def test_lines_of_tools_fit_too():
    found = [f"{p.name}: {line.strip()[:60]}…" for p in sorted((ROOT / "tools").glob("*.py"))
             for line in p.read_text(encoding="utf-8").splitlines() if len(line) > 120]
    assert not found, "\n".join(found)


@each_notebook
def test_the_first_cell_is_title_and_subtitle(path):
    first = source(cells(path)[0])
    assert re.match(r"# \S.*\n\n> \S.*", first), f"{path.name} begins with `# title`, an empty line, `> one line`"


@each_notebook
def test_every_cell_has_a_lasting_id(path):
    ids = [cell.get("id") for cell in cells(path)]
    assert all(ids), f"{path.name} has cells without an id: write the notebook with nbformat 4.5"
    assert len(set(ids)) == len(ids), f"{path.name} has two cells with one id"


@each_notebook
def test_saved_outputs_are_small_and_quiet(path):
    saved = [(cell["id"], output) for cell in code_cells(path) for output in cell["outputs"]]
    size = sum(len(json.dumps(output)) for _, output in saved)
    assert size <= 500_000, f"{path.name} holds {size / 1000:.0f} KB of outputs; 500 KB are allowed"
    assert "widgets" not in json.loads(path.read_text(encoding="utf-8"))["metadata"]
    for cell, output in saved:
        where, data = f"{path.name}, cell {cell}", output.get("data", {})
        assert output.get("name") != "stderr", f"{where}: saved stderr"
        assert output["output_type"] != "error", f"{where}: saved error"
        assert "application/vnd.jupyter.widget-view+json" not in data, f"{where}: a widget, which needs a kernel"
        text = "".join(output.get("text", "")) + "".join(data.get("text/plain", ""))
        assert not re.search(r"\d+%\|[█▏▎▍▌▋▊▉ ]*\|", text), f"{where}: a saved progress bar"
        assert not re.search(r"\b0x[0-9a-f]{8,}", text), f"{where}: an address in memory, which changes at each run"


@each_notebook
def test_cells_import_or_work_not_both(path):
    # a mixed cell is executed when the docs are built
    free = r"^#\|\s*(exports?|exporti|eval:\s*false|echo:\s*false|hide)\b|^[%!]"
    for cell in code_cells(path):
        if re.search(free, source(cell), re.M): continue
        body = ast.parse(source(cell)).body
        imports = [n for n in body if isinstance(n, (ast.Import, ast.ImportFrom))]
        assert len(imports) in (0, len(body)), f"{path.name}, cell {cell['id']}: imports sit in cells of their own"


@each_notebook
def test_no_star_imports_and_no_patch(path):
    for cell in code_cells(path):
        where = f"{path.name}, cell {cell['id']}"
        assert not re.search(r"^\s*from\s+\S+\s+import\s+\*", source(cell), re.M), f"{where}: a star import"
        assert not re.search(r"^@patch\b", source(cell), re.M), f"{where}: @patch makes fastcore a runtime dependency"


@each_notebook
def test_a_taught_function_has_a_cell_of_its_own(path):
    for cell in code_cells(path):
        if not re.search(r"^#\|\s*exports\b", source(cell), re.M): continue
        body = [n for n in ast.parse(source(cell)).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
        where = f"{path.name}, cell {cell['id']}"
        assert len(body) <= 1, f"{where}: `#| exports` shows one function or class"
        long = [f.name for part in body for f in ast.walk(part) if isinstance(f, ast.FunctionDef)
                and f.end_lineno - f.body[0].lineno + 1 - (ast.get_docstring(f) is not None) > 20]
        assert not long, f"{where}: {', '.join(long)} is shown with a body of more than 20 lines"


def test_each_module_comes_from_one_notebook():
    names = [default_exp(p) for p in NOTEBOOKS if default_exp(p)]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)
    made = {p.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for p in PACKAGE.rglob("*.py")}
    made = {m for m in made if not m.endswith(("__init__", "_modidx"))}
    assert made == set(names), f"from no notebook: {sorted(made - set(names))}; not exported: {sorted(set(names) - made)}"


def test_notebooks_of_one_tens_belong_together():
    "Experiments end in 6, the source in 7, exercises in 8; their modules live in packages."
    for path in NOTEBOOKS:
        number, kind = path.stem[:2], path.stem.rsplit("_", 1)[-1]
        if not number.isdigit() or not 20 <= int(number) < 90: continue
        last = {"experiments": "6", "source": "7", "exercises": "8"}.get(kind)
        assert last == number[1] if last else number[1] in "012345", f"{path.name}: wrong number for its kind"
        module = default_exp(path) or ""
        if kind in ("experiments", "exercises"): assert module.startswith(f"{kind}."), f"{path.name} exports {module}"


# imports

@each_module
def test_imports_lead_to_lower_numbers(module):
    here = NUMBERS[module]
    for other in used_rooms(module, NUMBERS):
        there = NUMBERS[other]
        if other == module: continue
        assert there < here, f"{here:02d} {module} imports {there:02d} {other}, which comes later"
        elu = here // 10 == 6 and there // 10 == 3
        own = there < 20 or there // 10 == here // 10 or here >= 90 or elu
        assert own, f"{module} imports {other}, a room of another lesson"


@each_module
def test_what_a_module_imports_at_once(module):
    here, names = NUMBERS[module], {n.split(".")[0] for n in imported(at_once(tree(module)), module)}
    top = names - set(sys.stdlib_module_names) - {"hierlearn"}
    allowed = {"numpy", "tqdm", "IPython"} if module == "plots" else {"numpy", "tqdm"}
    if here in (3, 4, 15) or here >= 20: allowed |= {"PIL"}
    if here == 9 or here >= 20: allowed |= {"matplotlib"}
    keras = here in (12, 19) or 20 <= here < 40 or 60 <= here < 70 or module.endswith("_keras")
    torch = here in (13, 18) or 50 <= here < 60 or module.endswith("_torch")
    if keras or here >= 80: allowed |= {"keras"}
    if torch or here >= 80: allowed |= {"torch", "torchvision", "fastai"}
    assert top <= allowed, f"{module} imports {', '.join(sorted(top - allowed))} at module level; import it in the function"
    everywhere = {n.split(".")[0] for n in imported(ast.walk(tree(module)), module)}
    used = everywhere & DEVELOPMENT - {"IPython"} - ({"fastcore"} if torch else set())  # fastcore comes with fastai
    assert not used, f"{module} needs {used} at run time"


def loaded(code):
    "Top names of the modules that a program loads."
    code = f"import sys; before = set(sys.modules); {code}; print(*{{m.split('.')[0] for m in set(sys.modules) - before}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", LIGHT)
def test_a_foundation_loads_numpy_alone(module):
    heavy = FRAMEWORKS | DEVELOPMENT | {"matplotlib"}
    assert loaded(f"import hierlearn.{module}") & heavy == set()


@pytest.mark.parametrize("module", [m for m, n in NUMBERS.items()
                                    if (n in (9, 14, 15, 17) or 40 <= n < 50) and not m.endswith(("_keras", "_torch"))])
def test_no_framework_is_loaded_unasked(module):
    assert loaded(f"import hierlearn.{module}") & (FRAMEWORKS | DEVELOPMENT) == set()


def test_the_package_itself_loads_nothing():
    assert loaded("import hierlearn") == {"hierlearn"}


def test_the_drawing_of_the_imports_is_in_step():
    assert (NBS / "images" / "imports.svg").read_text(encoding="utf-8") == drawing(), "run make prepare"


def program(path):
    "The tokens of a file without strings and comments."
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    return " ".join(t.string for t in tokens if t.type not in (tokenize.COMMENT, tokenize.STRING))


@each_module
def test_one_writer_of_whole_files(module):
    if module == "basics": return
    text = (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    by_hand = re.findall(r"\bos\.replace\(|\.partial[\"'{]|mkstemp\(|NamedTemporaryFile\(", text)
    assert not by_hand, f"{module} writes files by hand ({', '.join(by_hand)}); basics.whole_file does it"


def test_no_forwarding_is_left():
    found = [p.name for p in NOTEBOOKS if "transitional forwarding" in p.read_text(encoding="utf-8")]
    assert not found, f"addresses that only forward: {found}"


# documentation and tests

def undocumented(node, lines):
    "Parameters of a function without a comment on their line."
    every = (*node.args.posonlyargs, *node.args.args, node.args.vararg, *node.args.kwonlyargs, node.args.kwarg)
    names = [a.arg for a in every if a is not None and a.arg not in ("self", "cls")]
    head = "\n".join(lines[node.lineno - 1 : node.body[0].lineno])
    known = lambda n: re.search(rf"^\s*(def \w+\(\s*)?\*{{0,2}}{re.escape(n)}\b[^#\n]*#\s*\S", head, re.M)
    return [n for n in names if not known(n)]


@each_module
def test_exported_functions_are_documented(module):
    lines = (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8").splitlines()
    names, problems = set(exported(module)), []
    for node in tree(module).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name not in names: continue
        if not ast.get_docstring(node): problems.append(f"{node.name} has no docstring")
        inner = [node] if isinstance(node, ast.FunctionDef) else [f for f in node.body if getattr(f, "name", "") == "__init__"]
        problems += [f"{node.name} says nothing about {', '.join(m)}" for f in inner if (m := undocumented(f, lines))]
    assert not problems, f"{module}: " + "; ".join(problems)


@each_module
def test_every_exported_name_is_touched_by_a_test(module):
    touched, last = set(), module.rsplit(".", 1)[-1]
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path == Path(__file__).resolve() or not re.search(rf"hierlearn\S*(\.| import .*\b){last}\b", text): continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Name): touched.add(node.id)
            elif isinstance(node, ast.Attribute): touched.add(node.attr)
    missing = sorted(set(exported(module)) - touched - {"torch", "keras"})
    assert not missing, f"no test of the installed package touches {module}'s {', '.join(missing)}"


@each_module
def test_all_is_true(module):
    found = __import__(f"hierlearn.{module}", fromlist=["*"])
    assert [name for name in getattr(found, "__all__", []) if not hasattr(found, name)] == []
    assert found.__doc__, f"{module} has no docstring: the notebook's subtitle makes it"


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


def test_the_core_covers_what_the_foundations_import():
    names = {"PIL": "pillow", "sklearn": "scikit-learn"}
    core = {re.split(r"[<>=!~\[]", r)[0] for r in settings()["requirements"].split()}
    assert len(core) <= 7, "the core grows"
    for module in [*LIGHT, "plots", "records", "runs"]:
        if module not in NUMBERS: continue
        top = {n.split(".")[0] for n in imported(at_once(tree(module)), module)} - set(sys.stdlib_module_names)
        assert {names.get(n, n) for n in top} <= core | {"hierlearn", "IPython"}, f"{module} imports {top} at module level"


def test_type_hints_are_shipped():
    assert (PACKAGE / "py.typed").exists()


# the repository

def files():
    "Files of the repository."
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try: names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):  # a copy without git
        names = [p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*") if p.is_file()]
        names = [n for n in names if not re.search(r"(^|/)\.", n)]
    return [(name, ROOT / name) for name in names if (ROOT / name).is_file()]


def tracked():
    "Text files of the repository."
    binary = (".png", ".npz", ".woff2", ".woff", ".gz", ".webp", ".ico", ".safetensors")
    foreign = ("docs/site_libs/", "nbs/styles/katex/")
    return [(name, path) for name, path in files() if path.suffix not in binary and not name.startswith(foreign)]


def test_no_path_of_one_machine():
    pattern = re.compile(r"(?<![.\w/:<])/(home|srv|work|farm|root|Users)/[\w.-]+")
    found = ((name, pattern.search(path.read_text(encoding="utf-8", errors="replace"))) for name, path in tracked())
    problems = [f"{name}: {m[0]}" for name, m in found if m and name != "tests/test_hygiene.py"]
    assert not problems, "\n".join(problems)


def test_nothing_is_left_open():
    pattern = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    problems = [name for name, path in tracked() if path.suffix in (".py", ".ipynb", ".md") and not name.startswith("docs/")
                and pattern.search(path.read_text(encoding="utf-8", errors="replace"))]
    assert not problems, problems


def test_no_big_files():
    "Trained weights may have 6 MB, everything else 3."
    limit = lambda name: 6_000_000 if re.fullmatch(r"hierlearn/weights/\w+\.safetensors", name) else 3_000_000
    problems = [f"{name}: {p.stat().st_size / 1e6:.1f} MB" for name, p in files() if p.stat().st_size > limit(name)]
    assert not problems, problems
