"""Run the experiments of the lessons on the embedded data in the tiny profile and end with one table.

usage: course.py [EXPERIMENT ...]
"""
import os
import subprocess
import sys
import tempfile
import time

from common import ROOT, environment, table

sys.path.insert(0, str(ROOT))
ONE = """
import sys
from hierlearn.runs import load
try: experiment = load(sys.argv[1])
except ValueError as error:
    print(error)
    sys.exit(3)
experiment.run("tiny", sys.argv[2], progress=sys.stderr.isatty())
"""


def run(name, folder):
    "Run one experiment in a process of its own: the state of the run, its record, seconds."
    from hierlearn.records import read_record
    start = time.perf_counter()
    # without a terminal nobody watches a progress bar, and what frameworks say on loading matters only when something
    # fails
    quiet = None if sys.stderr.isatty() else subprocess.PIPE
    command = [sys.executable, "-c", ONE, name, folder]
    done = subprocess.run(command, env=environment("tiny", threads=None), stderr=quiet, text=True)
    if done.returncode == 3: return "not written", None, ""
    if done.returncode and quiet: print(done.stderr[-4000:], flush=True)
    seconds = f"{time.perf_counter() - start:.0f}"
    return ("FAILED", None, seconds) if done.returncode else ("ok", read_record(name, "tiny", folder), seconds)


def headline(entry, record):
    "Name and value of the number that the registry puts first, or of the first that this profile measures."
    numbers = [name for name, value in record.metrics.items() if isinstance(value, float)]
    name = record.metrics.get("headline", entry.headline)
    if name not in numbers: name = next((n for n in numbers if "accuracy" in n), numbers[0])
    return name.replace("_", " "), f"{record.metrics[name]:.3f}"


def main(chosen):
    from hierlearn.runs import REGISTRY
    if unknown := set(chosen) - set(REGISTRY):
        sys.exit(f"no experiment is called {', '.join(unknown)}; there are {', '.join(REGISTRY)}")
    os.chdir(ROOT)
    print("Running the experiments on the embedded data set `shapes`, profile tiny.", flush=True)
    rows = []
    for entry in REGISTRY.values():
        if chosen and entry.name not in chosen: continue
        if entry.path is None:
            rows.append((entry.title, "comes next", "", "", ""))
            continue
        print(f"\n== {entry.title}", flush=True)
        with tempfile.TemporaryDirectory() as folder: state, record, seconds = run(entry.name, folder)
        rows.append((entry.title, state, *(headline(entry, record) if record else ("", "")), seconds))
    print("\n" + table(rows, ("experiment", "run", "measure", "value", "seconds")))
    print(
        "\nThese runs only show that everything works; the numbers of the pages come from real data (docs/index.html).")
    print("Next: make lab opens the notebooks, docs/index.html is the course to read.")
    return any(state == "FAILED" for _, state, *_ in rows)


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
