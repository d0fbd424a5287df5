"""Run a lesson's profile again and set the result beside its record.

usage: reproduce.py LESSON [--profile quick] [--results FOLDER]      LESSON: alexnet_small, or 20_alexnet_small
"""
import argparse
import importlib
import inspect
import json
import os
import re
import sys
import tempfile
from pathlib import Path

from common import LESSONS, RESULTS, ROOT, environment, real_data, table


def compare(old, new):
    "Rows (measure, record, now, difference) of the numbers that two records share."
    rows = []
    for name, before in old["metrics"].items():
        now = new["metrics"].get(name)
        if isinstance(before, (int, float)) and isinstance(now, (int, float)):
            rows.append((name, f"{before:.6g}", f"{now:.6g}", f"{now - before:+.3g}"))
    rows.append(("seconds", old["header"].get("seconds", ""), new["header"].get("seconds", ""), ""))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lesson")
    parser.add_argument("--profile", default="quick", choices=("tiny", "quick", "full"))
    parser.add_argument("--results", help="folder of the new record; a temporary one when not given")
    args = parser.parse_args()
    name = re.sub(r"^\d+_", "", args.lesson)
    if name not in LESSONS: sys.exit(f"no lesson is called {args.lesson}; lessons are: {', '.join(LESSONS)}")
    os.environ.update(environment(args.profile, threads=None))
    sys.path.insert(0, str(ROOT))
    data = real_data() if args.profile != "tiny" else None
    if data: os.environ["HIERLEARN_DATA"] = str(data)
    lesson = importlib.import_module(f"hierlearn.{name}")
    if not hasattr(lesson, "run_lesson"): sys.exit(f"{name} has no run of its own; its numbers are made in its notebook")
    record = RESULTS / f"{name}.{args.profile}.json"
    with tempfile.TemporaryDirectory() as folder:
        results = args.results or folder
        Path(results).mkdir(parents=True, exist_ok=True)
        wanted = {"results": results, "progress": sys.stderr.isatty()}
        new = lesson.run_lesson(args.profile, **{k: v for k, v in wanted.items() if k in inspect.signature(lesson.run_lesson).parameters})
    if not record.exists():
        print(f"There is no record {record.relative_to(ROOT)} to compare with; this run:")
        print(json.dumps(new["metrics"], indent=1, default=float))
        return
    old = json.loads(record.read_text())
    print(table(compare(old, new), (f"{name}, {args.profile}", "record", "now", "difference")))
    for key in ("commit", "data_sha256", "seed", "precision", "processor", "threads"):
        if old["header"].get(key) != new["header"].get(key): print(f"{key}: {old['header'].get(key)} in the record, {new['header'].get(key)} now")


if __name__ == "__main__": main()
