"""Every check, part by part, with a budget for each; the exit code is 0 only when all of them pass.

usage: test.py [PART ...]        default: all parts, in the order below
       test.py --write           before a commit: the parts that write, the notebooks' run, index and README
       test.py --notebook NB     the parts of one notebook: a number, or part of its name
A part that writes (clean, export, drawing, readme, docs) fails when it changes a file: commit what it wrote.
"""
import hashlib
import os
import re
import subprocess
import sys
import time

from common import DOCS, NBS, PACKAGE, ROOT, environment, notebooks, real_data, table
from rooms import default_exp

PY = sys.executable
PYTEST = [PY, "-m", "pytest", "-q", "-ra", "--durations=8", "-p", "no:cacheprovider"]
NBDEV = lambda module, name: [PY, "-c", f"from nbdev.{module} import {name}; {name}.__wrapped__()"]
BROWSER = ["tests/test_site.py", "tests/test_explorers.py", "tests/test_explorer_hypernyms.py",
           "tests/test_explorer_severity.py", "tests/test_explorer_elu.py"]
# part -> what it is, command, group of the budget
PARTS = {
    "clean": ("notebooks are clean", NBDEV("clean", "nbdev_clean"), "in step"),
    "export": ("modules are exported", NBDEV("doclinks", "nbdev_export"), "in step"),
    "drawing": ("the drawing of imports", [PY, "tools/rooms.py"], "in step"),
    "readme": ("README", [PY, "tools/write_readme.py"], "in step"),
    "lint": ("one style (ruff)", [PY, "-m", "ruff", "check", "."], "in step"),
    "types": ("type hints (mypy)", [PY, "-m", "mypy"], "in step"),
    "notebooks": ("notebooks run, outputs equal", [PY, "tools/run_notebooks.py"], "notebooks"),
    "pytest": ("the installed package", [*PYTEST, "-n", "2", "--dist", "loadfile", "tests",
                                         *(f"--ignore={b}" for b in BROWSER)], "pytest"),
    "docs": ("docs/ is built", [PY, "tools/build_docs.py"], "site and browser"),
    "site": ("the site in a browser", [*PYTEST, "-n", "2", *BROWSER], "site and browser"),
}
WRITERS = {"clean", "export", "drawing", "readme", "docs"}
BUDGET = {"in step": 2, "notebooks": 6, "pytest": 10, "site and browser": 6}  # minutes


def made():
    "Digest of every file that is made from the notebooks, and of the notebooks."
    files = [*NBS.glob("*.ipynb"), *NBS.glob("images/*"), ROOT / "README.md", *PACKAGE.rglob("*.py"),
        *DOCS.rglob("*")]
    return {p.relative_to(ROOT): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.is_file()}


def run(name, command, writes=False):
    "Run one part; is all well?"
    before = made() if writes else {}
    fine = subprocess.run(command, env=os.environ).returncode == 0
    after = made() if writes else {}
    changed = sorted(str(p) for p in before.keys() | after.keys() if before.get(p) != after.get(p))
    if changed:
        print(f"{name} changed {', '.join(changed[:8])}{' …' * (len(changed) > 8)}: look at it and commit it",
            flush=True)
    return fine, changed


def of_notebook(name):
    "Parts for one notebook: it is cleaned, exported, linted, run, and its tests run."
    found = [p for p in notebooks() if (p.stem.startswith(name) if name.isdigit() else name in p.stem)]
    if len(found) != 1: sys.exit(f"{len(found)} notebooks are called {name}: NB=20, or NB=alexnet_small_source")
    module = (default_exp(found[0]) or "").rsplit(".", 1)[-1]
    wanted = [p for p in sorted((ROOT / "tests").glob("test_*.py")) if module and re.search(rf"\b{module}\b", p.stem)]
    if module and not wanted:
        pattern = re.compile(rf"from hierlearn\S*\.{module} import|from hierlearn\S* import .*\b{module}\b")
        wanted = [p for p in sorted((ROOT / "tests").glob("test_*.py"))
            if pattern.search(p.read_text(encoding="utf-8"))]
    quick = [*PYTEST, "tests/test_hygiene.py", "-k", " or ".join(filter(None, [found[0].stem, module]))]
    parts = {n: PARTS[n] for n in ("clean", "export")}
    parts["lint"] = ("one style (ruff)", [*PARTS["lint"][1][:-1], str(found[0])], "")
    parts["notebook"] = (found[0].name, [PY, "tools/run_notebooks.py", found[0].stem], "")
    parts["rules"] = ("house rules", quick, "")
    if wanted: parts["tests"] = (", ".join(p.name for p in wanted), [*PYTEST, *map(str, wanted)], "")
    return parts


def main(arguments):
    os.chdir(ROOT)
    parts, write = PARTS, "--write" in arguments
    chosen = [a for a in arguments if a != "--write"]
    if chosen[:1] == ["--notebook"]: parts, chosen = of_notebook(chosen[1]), []
    elif write:
        index = [PY, "tools/run_notebooks.py", "--save", "index"]
        order = ("clean", "export", "drawing", "notebooks", "index", "readme", "docs")
        parts = {n: PARTS.get(n, ("the front page's table", index, "")) for n in order}
    if set(chosen) - set(parts): sys.exit(__doc__)
    os.environ.update(environment("tiny"))
    data = real_data()
    if data: os.environ["HIERLEARN_DATA"] = str(data)
    print(
        f"Python {sys.version.split()[0]}, profile tiny, real data: {data or 'none, tests that need them are skipped'}",
        flush=True)
    rows, spent, failed = [], {}, []
    for name in chosen or parts:
        title, command, group = parts[name]
        print(f"\n== {name}: {title}", flush=True)
        start = time.perf_counter()
        fine, changed = run(name, command, name in WRITERS)
        seconds = time.perf_counter() - start
        spent[group] = spent.get(group, 0) + seconds
        if not fine or (changed and parts is PARTS): failed.append(name)
        rows.append((name, title, "FAILED" if name in failed else "changed files" if changed else "ok",
            f"{seconds:.0f}"))
        if write and not fine: break
    print("\n" + table(rows, ("part", "what", "result", "seconds")))
    if parts is PARTS:
        kept = [(g, BUDGET[g], f"{s / 60:.1f}", "over" if s > 60 * BUDGET[g] else "within") for g, s in spent.items()]
        print("\n" + table(kept, ("budget", "minutes", "took", "")))
    print("\n" + (f"FAILED: {', '.join(failed)}" if failed else "All checks passed."), flush=True)
    return bool(failed)


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
