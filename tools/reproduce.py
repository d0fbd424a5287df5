"""Run an experiment's profile again and set each stage beside its record.

usage: reproduce.py EXPERIMENT [--stage NAME] [--profile quick] [--results FOLDER]

EXPERIMENT is a name of the registry (six_layer), or a lesson's notebook (20_alexnet_small). With --results the run
can be killed and goes on when it is called again: finished stages are passed over, training resumes to the epoch.
make hands over STAGE= and RESULTS= in the environment."""
import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from common import RESULTS, ROOT, environment, real_data, table

sys.path.insert(0, str(ROOT))
EVIDENCE = ("key", "data_sha256", "seed", "precision", "processor", "threads", "commit")


def numbers(metrics, prefix=""):
    "name -> number, the dictionaries inside included."
    found = {}
    for name, value in metrics.items():
        if isinstance(value, dict): found |= numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool): found[prefix + name] = value
    return found


def beside(title, old, new):
    "Print the record that was, what came out now, and what differs in the evidence."
    if old is None:
        print(f"\n{title}: there is no record to compare with")
        print(table([(name, f"{value:.6g}") for name, value in numbers(new.metrics).items()], ("", "now")))
        return
    before, now = numbers(old.metrics), numbers(new.metrics)
    rows = [(name, f"{before[name]:.6g}", f"{now[name]:.6g}", f"{now[name] - before[name]:+.3g}") for name in before
        if name in now]
    rows.append(("seconds", old.header.get("seconds"), new.header.get("seconds"), ""))
    print("\n" + table(rows, (title, "record", "now", "difference")))
    for entry in EVIDENCE:
        was, found = old.header.get(entry), new.header.get(entry)
        if was != found: print(f"{entry}: {was} in the record, {found} now")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--profile", default="quick", choices=("tiny", "quick", "full"))
    parser.add_argument("--stage", default=os.environ.get("STAGE") or None, help="this stage alone")
    parser.add_argument("--results", default=os.environ.get("RESULTS") or None,
        help="folder of the new records; else a temporary one")
    args = parser.parse_args()
    data = real_data() if args.profile != "tiny" else None
    if data: os.environ["HIERLEARN_DATA"] = str(data)
    os.environ.update(environment(args.profile, threads=None))
    from hierlearn.records import read_record
    from hierlearn.runs import REGISTRY, load

    def record(name, folder):
        try: return read_record(name, args.profile, folder)
        except FileNotFoundError: return None

    names = {entry.lesson: name for name, entry in REGISTRY.items() if entry.lesson} | {name: name for name
        in REGISTRY}
    name = names.get(args.experiment, args.experiment)
    try: experiment = load(name)
    except ValueError as error: sys.exit(str(error))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.results or temporary)
        try: steps = experiment.plan(args.profile, folder)
        except ValueError as error: sys.exit(str(error))
        old = {step.record: record(step.record, RESULTS) for step in steps.values()}
        old.setdefault(experiment.name, record(experiment.name, RESULTS))
        if args.stage and not args.results:  # the stages before it are taken from their records
            for step in steps.values():
                if step.stage.name == args.stage: continue
                for path in RESULTS.glob(f"{step.record}.{args.profile}.*"): shutil.copy(path, folder)
        try: new = experiment.run(args.profile, folder, args.stage, progress=sys.stderr.isatty())
        except ValueError as error: sys.exit(str(error))
        for step in steps.values():
            if args.stage in (None, step.stage.name) and step.record != new.header["name"]:
                beside(step.record, old[step.record], record(step.record, folder))
        beside(new.header["name"], old[new.header["name"]], new)
        if not args.results: print("\nThis run's records are not kept; RESULTS=nbs/results keeps them.")


if __name__ == "__main__": main()
