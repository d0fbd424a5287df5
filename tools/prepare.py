"Before a commit: clean the notebooks, export the modules, run the notebooks, make the front page's table again, write README.md and docs/."
import os
import subprocess
import sys

from common import ROOT, environment

# the one notebook whose saved outputs are made here: its table shows the records
INDEX = """
import nbformat, sys
from execnb.nbio import read_nb, write_nb
from nbclient import NotebookClient
from nbdev.clean import clean_nb
path = "nbs/index.ipynb"
nb = nbformat.read(path, 4)
NotebookClient(nb, timeout=300, resources={"metadata": {"path": "nbs"}}).execute()
for cell in nb.cells:
    cell.metadata.pop("execution", None)
    if cell.cell_type == "code": cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
nbformat.write(nb, path)
nb = read_nb(path)
clean_nb(nb)
for cell in nb.cells: [cell.pop(k) for k in [k for k in cell if k.endswith("_")]]
write_nb(nb, path)
"""
STEPS = {
    "clean": [sys.executable, "-c", "from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__()"],
    "export": [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()"],
    "notebooks": [sys.executable, "tools/run_notebooks.py"],
    "index": [sys.executable, "-c", INDEX],
    "readme": [sys.executable, "tools/write_readme.py"],
    "docs": [sys.executable, "tools/build_docs.py"],
}

if __name__ == "__main__":
    os.chdir(ROOT)
    for name in sys.argv[1:] or STEPS:
        print(f"== {name}", flush=True)
        if subprocess.run(STEPS[name], env=environment("tiny")).returncode: sys.exit(f"{name} failed; the steps after it did not run")
