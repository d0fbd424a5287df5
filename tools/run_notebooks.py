"""Run notebooks from top to bottom in a profile and compare their saved outputs; `--save` writes the new ones.

usage: run_notebooks.py [--save] [--profile tiny] [--workers 2] [--timeout 420] [--flags "slow cuda"] [NAME ...]
NAME: part of a name, or a number. Each runs in a kernel of its own on a copy of nbs/: the checkout is not touched.
Cells marked `eval: false` are passed over, and cells with a flag of tst_flags unless --flags names it.
"""
import argparse
import asyncio
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import NBS, ROOT, environment, notebooks, real_data, settings, table

NUMBER = re.compile(r"(?<![\w.])[-−+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
# what such a cell prints depends on data that this run may lack
NEEDS_DATA = re.compile(r"has_data|data_root|NLTK_DATA|wordnet|load_(cifar|pets|pet_?images|imagenet)", re.I)


def digests(folder):
    "Digest of every file of a folder, what Python and Jupyter keep for themselves aside."
    skip = {"__pycache__", ".ipynb_checkpoints", "results", "runs", "logs", "checkpoints"}
    files = (p for p in folder.rglob("*") if p.is_file() and not skip & set(p.parts))
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def skipped(code, flags):
    "Does a cell stay out of this run?"
    if re.search(r"^#\|\s*eval:\s*false", code, re.M | re.I): return True
    unwanted = set(settings()["tst_flags"].split()) - set(flags.split())
    return any(re.search(rf"^#\|\s*{flag}\b", code, re.M) for flag in unwanted)


def execute(path, timeout, flags):
    "A notebook with the outputs of a fresh run; an error ends it."
    import nbformat
    from nbclient import NotebookClient
    asyncio.set_event_loop(asyncio.new_event_loop())
    nb = nbformat.read(path, 4)
    for cell in nb.cells:
        tags = ["skip-execution"] if cell.cell_type == "code" and skipped(cell.source, flags) else []
        cell.metadata["tags"] = tags
    NotebookClient(
        nb, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}},
        skip_cells_with_tag="skip-execution", extra_arguments=["--IPKernelApp.log_level=40"]).execute()
    for cell in nb.cells:
        if cell.cell_type == "code" and "skip-execution" not in cell.metadata["tags"]:
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return nb


def said(cell):
    "What a cell shows as text: printed lines, values, tables; drawings only as their kind."
    found = []
    for o in cell.get("outputs", []):
        data = o.get("data", {})
        drawn = [k for k in data if k.startswith("image/") or re.search("<(svg|iframe|img)", "".join(data[k]))]
        text = [o.get("text", "")] if o["output_type"] == "stream" else []
        text += [] if drawn else [data[k] for k in ("text/markdown", "text/html", "text/plain") if k in data][:1]
        found += ["".join(t) for t in text] + [f"[{kind.split('/')[0]}]" for kind in drawn[:1]]
    return re.sub(r"0x[0-9a-f]{6,}", "0x", " ".join(" ".join(found).split()))  # streams are cut anywhere


def same(old, new, tolerance=0.02):
    "Are two texts equal, numbers with a point within the tolerance?"
    if NUMBER.sub("#", old) != NUMBER.sub("#", new): return False
    for a, b in zip(NUMBER.findall(old), NUMBER.findall(new)):
        x, y = (float(n.replace("−", "-")) for n in (a, b))
        if abs(x - y) > (tolerance * max(abs(x), abs(y)) + 1e-6 if "." in a or "e" in a else 0): return False
    return True


def differences(old, new, has_data):
    "Cells whose saved text is not what the run says."
    for before, after in zip(old["cells"], new["cells"]):
        if before["cell_type"] != "code" or (NEEDS_DATA.search("".join(before["source"])) and not has_data): continue
        if "skip-execution" in after["metadata"].get("tags", []): continue
        a, b = said(before), said(after)
        if not same(a, b): yield f"cell {before['id']} has saved\n    {a[:300]!r}\n  and now says\n    {b[:300]!r}"


def save(nb, path):
    "Put the outputs of a run into the notebook, as nbdev_clean leaves them; the rest of the file stays as it is."
    import nbformat
    from nbdev.clean import nbdev_clean
    old, new = json.loads(path.read_text(encoding="utf-8")), json.loads(nbformat.writes(nb))
    for before, after in zip(old["cells"], new["cells"]):
        if "outputs" in after: before["outputs"] = after["outputs"]
    path.write_text(json.dumps(old, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    nbdev_clean.__wrapped__(fname=str(path))


def run(names, profile="tiny", workers=2, timeout=420, flags="", keep=False):
    "Run notebooks; returns rows (name, result, seconds) and whether all is well."
    known = lambda path: any(n.removesuffix(".ipynb") in path.stem if not n.isdigit() else path.stem.startswith(n)
        for n in names)
    chosen = [p for p in notebooks() if not names or known(p)]
    if not chosen: sys.exit(f"no notebook is called {' or '.join(names)}")
    os.environ.update(environment(profile))
    os.environ.pop("MPLBACKEND", None)  # the kernel draws into the notebook
    data = real_data()
    if data: os.environ["HIERLEARN_DATA"] = str(data)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "hierlearn"
        unwanted = shutil.ignore_patterns(".ipynb_checkpoints", "styles", "runs", "logs", "checkpoints")
        shutil.copytree(NBS, work / "nbs", ignore=unwanted)
        shutil.copy(ROOT / "settings.ini", work)
        before = digests(work / "nbs")

        def one(path):
            start, result, text = time.perf_counter(), "ok", ""
            try: nb = execute(work / "nbs" / path.name, timeout, flags)
            except Exception as error: result, text = "FAILED", str(error)[-4000:]
            else:
                if keep: save(nb, path)
                else: text = "\n".join(differences(json.loads(path.read_text(encoding="utf-8")), nb, data))
                if text: result = f"FAILED: saved outputs differ; make outputs NB={path.stem}"
            seconds = time.perf_counter() - start
            print(f"{path.name}: {result} ({seconds:.0f} s)" + f"\n  {text}".replace("\n", "\n  ") * bool(text),
                flush=True)
            return path.stem, result, f"{seconds:.0f}"

        # the longest first: lessons before foundations
        with ThreadPoolExecutor(workers) as pool:
            rows = list(pool.map(one, sorted(chosen, key=lambda p: p.name, reverse=True)))
        after = digests(work / "nbs")
    changed = sorted(str(k) for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    for name in changed: print(f"a notebook made or changed nbs/{name} while it ran", flush=True)
    return sorted(rows), all(r[1] == "ok" for r in rows) and not changed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of notebook names, or numbers; all when none is given")
    parser.add_argument("--save", action="store_true", help="write the outputs into the notebooks")
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=int, default=420, help="seconds a cell")
    parser.add_argument("--flags", default="", help="flags whose cells run too")
    args = parser.parse_args()
    rows, fine = run(args.names, args.profile, args.workers, args.timeout, args.flags, args.save)
    print(table(rows, ("notebook", "result", "seconds")))
    sys.exit(not fine)
