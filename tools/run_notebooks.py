"""Run notebooks from top to bottom in a profile, each in a process of its own, on a copy: the checkout is not touched.

usage: run_notebooks.py [--profile tiny] [--workers 2] [--timeout 420] [--flags "slow cuda"] [NAME ...]
Cells marked `eval: false` are passed over, and cells with a flag of tst_flags unless --flags names it, as nbdev_test does.
"""
import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import NBS, ROOT, environment, notebooks, table

ONE = """
import sys
from pathlib import Path
from nbdev.test import test_nb
ok, seconds = test_nb(Path(sys.argv[1]), skip_flags=sys.argv[2].split(), force_flags=sys.argv[3].split(), showerr=True)
sys.exit(0 if ok else 1)
"""


def digests(folder):
    "Digest of every file of a folder, what Python and Jupyter keep for themselves aside."
    skip = {"__pycache__", ".ipynb_checkpoints", "results", "runs", "logs", "checkpoints"}
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file() and not skip & set(p.parts)}


def run(names, profile="tiny", workers=2, timeout=420, flags=""):
    "Run notebooks; returns rows (name, result, seconds) and whether all is well."
    from nbdev.config import get_config
    skip = get_config(path=ROOT).tst_flags
    chosen = [p for p in notebooks() if not names or any(n.removesuffix(".ipynb") in p.stem for n in names)]
    if not chosen: sys.exit(f"no notebook is called {' or '.join(names)}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "hierlearn"
        shutil.copytree(NBS, work / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints", "styles", "runs", "logs", "checkpoints"))
        shutil.copy(ROOT / "settings.ini", work)
        before = digests(work / "nbs")

        def one(path):
            start = time.perf_counter()
            try:
                done = subprocess.run([sys.executable, "-c", ONE, work / "nbs" / path.name, skip, flags], cwd=work / "nbs", env=environment(profile),
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, errors="replace")
                result, said = ("ok" if done.returncode == 0 else "FAILED"), done.stdout
            except subprocess.TimeoutExpired as error:
                result, said = f"FAILED: over {timeout} s", (error.stdout or b"").decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
            seconds = time.perf_counter() - start
            print(f"{path.name}: {result} ({seconds:.0f} s)", flush=True)
            if result != "ok": print("    " + said[-4000:].replace("\n", "\n    "), flush=True)
            return path.stem, result, f"{seconds:.0f}"

        # the longest first: lessons before foundations
        with ThreadPoolExecutor(workers) as pool: rows = list(pool.map(one, sorted(chosen, key=lambda p: p.name, reverse=True)))
        after = digests(work / "nbs")
        changed = sorted(str(k) for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    for name in changed: print(f"a notebook made or changed nbs/{name} while it ran", flush=True)
    return sorted(rows), all(r[1] == "ok" for r in rows) and not changed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of notebook names; all when none is given")
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=int, default=420, help="seconds a notebook")
    parser.add_argument("--flags", default="", help="flags whose cells run too")
    args = parser.parse_args()
    rows, fine = run(args.names, args.profile, args.workers, args.timeout, args.flags)
    print(table(rows, ("notebook", "result", "seconds")))
    sys.exit(not fine)
