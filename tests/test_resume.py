"A training that is killed by SIGKILL at random moments ends with the very weights of one that is left alone."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="no fork on this system")
WRITING = {"half written", "before rename", "after rename"}


def killed(kind, folder, kills, backend="tensorflow"):
    environment = os.environ | {"KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    run = subprocess.run([sys.executable, Path(__file__).parent / "resume_runs.py", kind, folder, str(kills), "0"], capture_output=True, text=True, env=environment, timeout=900)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.timeout(900)  # seconds of work, but a machine with other work may take long
@pytest.mark.parametrize("kind, backend, kills", [("keras", "tensorflow", 10), ("keras", "torch", 4), ("torch", "tensorflow", 6), ("loop", "tensorflow", 4), ("fastai", "tensorflow", 4)])
def test_killed_training_resumes_to_the_same_bits(kind, backend, kills, tmp_path):
    result = killed(kind, tmp_path, kills, backend)
    assert len(result["events"]) == kills
    assert WRITING & set(result["events"])
    assert result["killed"] == result["whole"]
    # nothing half-written stays, and the last two checkpoints do
    assert result["files"] == ["epoch-00004.ckpt", "epoch-00005.ckpt"]
