"What the commands share: where things are, the environment of a run, a table."
import configparser
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS, PACKAGE, DOCS, RESULTS = ROOT / "nbs", ROOT / "hierlearn", ROOT / "docs", ROOT / "nbs" / "results"


def settings():
    "The settings of settings.ini, interpolated."
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def notebooks():
    "Every notebook of the course, in reading order."
    return sorted(p for p in NBS.glob("*.ipynb") if not p.name.startswith(("_", ".")))


def shared_data():
    "The folder of packed real data beside the checkout, or None."
    folder = Path(os.environ.get("HIERLEARN_SHARED", ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


def environment(profile="tiny", threads=1):
    "The environment variables of a run: the profile, few threads, quiet frameworks, this checkout's package first."
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    found = {**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg", "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1"), "PYTHONHASHSEED": "0",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    if profile: found["HIERLEARN_PROFILE"] = profile
    if threads:
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            found.setdefault(name, str(threads))
    shared = shared_data()
    if shared and (shared / "nltk_data").is_dir(): found.setdefault("NLTK_DATA", str(shared / "nltk_data"))
    return found


def real_data():
    "The folder of unpacked real data: $HIERLEARN_DATA, else unpacked once from beside the checkout, else None."
    if os.environ.get("HIERLEARN_DATA"): return Path(os.environ["HIERLEARN_DATA"])
    shared = shared_data()
    if shared is None or not list(shared.glob("cifar10_*.zip")): return None
    key = hashlib.sha256(str(shared.resolve()).encode()).hexdigest()[:8]
    folder = Path(tempfile.gettempdir()) / f"hierlearn-data-{os.getuid() if hasattr(os, 'getuid') else ''}-{key}"
    if not (folder / "complete").exists():
        print(f"Unpacking the data of {shared} into {folder}", flush=True)
        subprocess.run([sys.executable, ROOT / "tests" / "tools" / "unpack_shared_data.py", shared, folder],
            check=True)
    return folder


def table(rows, header):
    "A plain text table."
    rows = [[str(c) for c in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
