"""Run the lessons on the embedded data in the tiny profile and end with one table.

usage: course.py [LESSON ...]
"""
import json
import os
import subprocess
import sys
import tempfile
import time

from common import LESSONS, PACKAGE, ROOT, environment, table

ONE = """
import importlib, inspect, json, sys
lesson = importlib.import_module("hierlearn." + sys.argv[1])
wanted = {"results": sys.argv[2], "progress": sys.stderr.isatty()}
known = inspect.signature(lesson.run_lesson).parameters
record = lesson.run_lesson("tiny", **{k: v for k, v in wanted.items() if k in known})
json.dump(record, open(sys.argv[2] + "/record.json", "w"), default=float)
"""


def exists(lesson):
    "Is the lesson written, and can it run by itself?"
    path = PACKAGE / f"{lesson}.py"
    return path.exists() and "def run_lesson(" in path.read_text(encoding="utf-8")


def number(metrics):
    "The number of a lesson's table: its test accuracy, or what it says is its headline."
    name = metrics.get("headline", "test_accuracy")
    value = metrics.get(name)
    return (name.replace("_", " "), f"{value:.3f}" if isinstance(value, float) else str(value)) if value is not None else ("", "")


def main(chosen):
    if set(chosen) - set(LESSONS): sys.exit(f"lessons are: {', '.join(LESSONS)}")
    os.chdir(ROOT)
    print("Running the lessons on the embedded data set `shapes`, profile tiny.", flush=True)
    rows, failed = [], False
    for n, (lesson, title) in enumerate(LESSONS.items(), 1):
        if chosen and lesson not in chosen: continue
        if not exists(lesson):
            rows.append((n, title, "comes next", "", ""))
            continue
        print(f"\n== {n}. {title}", flush=True)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            # without a terminal nobody watches a progress bar, and what the frameworks say on loading matters only when something fails
            quiet = not sys.stderr.isatty()
            done = subprocess.run([sys.executable, "-c", ONE, lesson, folder], env=environment("tiny", threads=None), stderr=subprocess.PIPE if quiet else None, text=True)
            if (code := done.returncode) and quiet: print(done.stderr[-4000:], flush=True)
            seconds = f"{time.perf_counter() - start:.0f}"
            if code:
                rows.append((n, title, "FAILED", "", seconds))
                failed = True
                continue
            with open(f"{folder}/record.json") as f: record = json.load(f)
        name, value = number(record["metrics"])
        rows.append((n, title, name, value, seconds))
    print("\n" + table(rows, ("", "lesson", "measure", "value", "seconds")))
    print("\nThese runs only show that everything works; the numbers of the pages come from real data (docs/index.html).")
    print("Next: make lab opens the notebooks, docs/index.html is the course to read.")
    return failed


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
