"What a page shows: its visible code runs as shown with the wheel alone, taught functions stand once with their bodies."
import ast
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from build_docs import import_line  # noqa: E402
from rooms import cells, public_names, seen, source  # noqa: E402

DOCS = Path(os.environ.get("HIERLEARN_DOCS", ROOT / "docs"))
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
# runs cells one by one, as Jupyter does
READER = """
import json, sys
import hierlearn
from IPython.core.interactiveshell import InteractiveShell
assert hierlearn.__file__.startswith(sys.argv[2]), hierlearn.__file__
shell = InteractiveShell.instance(colors="NoColor")
for name, code in json.load(open(sys.argv[1])):
    result = shell.run_cell(code)
    if not result.success: sys.exit(f"cell {name} does not run as shown:\\n{code[:600]}")
"""


@each_notebook
def test_visible_code_runs_as_shown(path, installed, tmp_path):
    code = [("the imports below the title", import_line(path))]
    for name, text in seen(path):
        code.append((name, text))
        # a class that is defined again is not the class that the package's functions know
        if re.search(r"^#\|\s*exports\b", text, re.M) and re.search(r"^class ", text, re.M): code.append(code[0])
    (tmp_path / "cells.json").write_text(json.dumps(code))
    for name in ("work", "home"): (tmp_path / name).mkdir()
    gone = ("HIERLEARN_DATA", "NLTK_DATA", "PYTHONHOME")
    env = {k: v for k, v in os.environ.items() if k not in gone} | {
        "PYTHONPATH": str(installed), "HIERLEARN_PROFILE": "tiny", "MPLBACKEND": "agg", "TF_CPP_MIN_LOG_LEVEL": "3",
        "HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home"), "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    command = [sys.executable, "-c", READER, str(tmp_path / "cells.json"), str(installed)]
    done = subprocess.run(command, cwd=tmp_path / "work", env=env, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, (done.stdout[-1500:] + done.stderr[-1500:]).replace(str(tmp_path), "…")


# the built pages

def page_of(path): return DOCS / (re.sub(r"^\d+_", "", path.stem) + ".html")


def code_blocks(text):
    "The code that a page shows, as text."
    found = re.findall(r'<pre class="sourceCode[^>]*><code[^>]*>(.*?)</code></pre>', text, re.S)
    return [html.unescape(re.sub(r"<[^>]+>", "", block)) for block in found]


def taught(path):
    "Source of each function or class that a notebook exports and shows."
    for _, text in seen(path):
        if not re.search(r"^#\|\s*exports\b", text, re.M): continue
        for node in ast.parse(text).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)): yield node.name, ast.get_source_segment(text, node)


def is_signature(block, name):
    "Does a block hold the head of a function or class and no body?"
    if not re.match(rf"\s*(def|class) {name}\b", block): return False
    lines = [line for line in block.splitlines() if line.strip()]
    return bool(re.match(r"\)|(def|class) ", lines[-1]))


@each_notebook
def test_taught_functions_stand_once_with_their_bodies(path):
    blocks = code_blocks(page_of(path).read_text(encoding="utf-8"))
    for name, body in taught(path):
        assert sum(body in block for block in blocks) == 1, f"{path.stem} shows {name} {sum(body in b for b in blocks)} times"
        assert not any(is_signature(b, name) for b in blocks), f"{path.stem} shows the signature of {name} beside its body"


@each_notebook
def test_helpers_are_folded(path):
    text = page_of(path).read_text(encoding="utf-8")
    asked = {n for c in cells(path) for n in re.findall(r"^show_doc\((\w+)", source(c), re.M)}
    shown = {name for name, _ in taught(path)}
    open_blocks = code_blocks(re.sub(r"<details class=\"helpers\">.*?</details>", "", text, flags=re.S))
    for name in set(public_names(path)) - shown - asked:
        assert not any(is_signature(b, name) for b in open_blocks), f"{path.stem}: the signature of the helper {name} is not folded"


@each_notebook
def test_figures_have_a_text_alternative(path):
    text = page_of(path).read_text(encoding="utf-8")
    main = text[text.index("<main") : text.index("</main>")]
    drawn = [tag for tag in re.findall(r"<(?:img|svg|iframe)\b[^>]*>", main) if 'aria-hidden="true"' not in tag]
    bare = [tag for tag in drawn if not re.search(r'(alt|aria-label|aria-labelledby|title)="[^"]*\w[^"]*"', tag)]
    assert not bare, f"{path.stem}: {len(bare)} of {len(drawn)} figures without a text alternative: {bare[0][:120]}"
