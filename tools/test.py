"""Every check, part by part, with a budget for each; the exit code is 0 only when all of them pass.

usage: test.py [PART ...]      parts: clean export readme docs notebooks pytest site; default: all
"""
import os
import subprocess
import sys
import time

from common import ROOT, environment, real_data, table

PY = sys.executable
PYTEST = [PY, "-m", "pytest", "-q", "-ra", "--durations=8", "-p", "no:cacheprovider"]
SYNC = lambda name: [PY, "tools/check_sync.py", name]
# part -> what it is, command, group of the budget
PARTS = {
    "clean": ("notebooks are clean", SYNC("clean"), "notebooks"),
    "export": ("modules in step", SYNC("export"), "notebooks"),
    "readme": ("README in step", SYNC("readme"), "notebooks"),
    "notebooks": ("notebooks run (tiny)", [PY, "tools/run_notebooks.py"], "notebooks"),
    "pytest": ("the installed package", [*PYTEST, "-n", "2", "--dist", "loadfile", "tests", "--ignore=tests/test_site.py"], "pytest"),
    "docs": ("docs in step", SYNC("docs"), "site and browser"),
    "site": ("the site in a browser", [*PYTEST, "tests/test_site.py"], "site and browser"),
}
BUDGET = {"notebooks": 8, "pytest": 8, "site and browser": 6}  # minutes


def main(chosen):
    if set(chosen) - set(PARTS): sys.exit(__doc__)
    os.chdir(ROOT)
    env = environment("tiny")
    data = real_data()
    if data: env["HIERLEARN_DATA"] = str(data)
    print(f"Python {sys.version.split()[0]}, profile tiny, real data: {data or 'none, tests that need them are skipped'}", flush=True)
    rows, spent, failed = [], {}, []
    for name in chosen or PARTS:
        title, command, group = PARTS[name]
        print(f"\n== {name}: {title}", flush=True)
        start = time.perf_counter()
        code = subprocess.run(command, env=env).returncode
        seconds = time.perf_counter() - start
        spent[group] = spent.get(group, 0) + seconds
        if code: failed.append(name)
        rows.append((name, title, "FAILED" if code else "ok", f"{seconds:.0f}"))
    print("\n" + table(rows, ("part", "what", "result", "seconds")))
    print("\n" + table([(g, BUDGET[g], f"{s / 60:.1f}", "over" if s > 60 * BUDGET[g] else "within") for g, s in spent.items()], ("budget", "minutes", "took", "")))
    print("\n" + (f"FAILED: {', '.join(failed)}" if failed else "All checks passed."), flush=True)
    return bool(failed)


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
