"Many runs on a real local cluster, and one net on two devices with the frameworks' own engines."
import dataclasses
import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from hierlearn.runs import Experiment, Result, Stage


@dataclasses.dataclass(frozen=True)
class Config:
    "One draw of a seed."
    seed: int = 0
    n: int = 2000


def mean_of_draws(job):
    draws = np.random.default_rng(job.config.seed).random(job.config.n)
    return Result({"mean": float(draws.mean()), "process": os.getpid()})


def sum_up(config, records):
    return Result({name: [record.metrics[name] for record in records.values()] for name in ("mean", "process")})


def test_stages_on_a_dask_cluster(tmp_path):
    distributed, joblib = pytest.importorskip("distributed"), pytest.importorskip("joblib")
    # pickled by value: a worker need not have this file
    import cloudpickle
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    def stages(config): return tuple(Stage(f"seed_{s}", mean_of_draws, data=False, config=Config(seed=s)) for s in range(8))
    draws = Experiment("draws", {"tiny": Config()}, stages, summary=sum_up)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster, distributed.Client(cluster):
        with joblib.parallel_config("dask"): found = draws.run("tiny", tmp_path, n_jobs=None, progress=False)
    assert found.metrics["mean"] == [np.random.default_rng(seed).random(2000).mean() for seed in range(8)]
    assert os.getpid() not in found.metrics["process"]


def run(code, **more):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"} | more
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_mirrored_strategy_on_two_cpu_replicas():
    pytest.importorskip("tensorflow")
    process = run("""
        import numpy as np, tensorflow as tf, keras
        from hierlearn.batches import Batches
        from hierlearn.keras_training import fit
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(32, 5)).astype("float32"), rng.integers(0, 3, 32)
        def train(strategy):
            keras.utils.set_random_seed(0)
            with strategy.scope():
                model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)])
                model.compile(keras.optimizers.SGD(0.1, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
                history = fit(model, Batches(x, y, 8), (x, y), 2, progress=False)
            return model.get_weights(), history["loss"]
        two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice())
        assert two.num_replicas_in_sync == 2
        (a, u), (b, v) = train(tf.distribute.get_strategy()), train(two)
        for p, q in zip(a, b): np.testing.assert_allclose(p, q, atol=1e-5)
        np.testing.assert_allclose(u, v, rtol=1e-4)
        print("same")
        """)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0 and "same" in out, error[-3000:]


def test_accelerate_on_two_processes(tmp_path):
    pytest.importorskip("accelerate")
    code = """
        import os, torch
        from accelerate import Accelerator
        from hierlearn.torch_training import TorchCheckpoint
        accelerator = Accelerator(cpu=True)
        torch.manual_seed(0)
        x, y = torch.randn(32, 5), torch.randint(0, 3, (32,))
        net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 8 // accelerator.num_processes)
        net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
        for epoch in range(2):
            for images, labels in loader:
                loss = torch.nn.functional.cross_entropy(net(images), labels)
                optimizer.zero_grad(); accelerator.backward(loss); optimizer.step()
        plain = accelerator.unwrap_model(net)
        if accelerator.is_main_process: TorchCheckpoint(FOLDER, model=plain).save(0)
        print("processes", accelerator.num_processes, type(net).__name__, sum(p.double().sum().item() for p in plain.parameters()), flush=True)
        accelerator.wait_for_everyone()
        if accelerator.num_processes > 1: torch.distributed.destroy_process_group()
        os._exit(0)  # Gloo's threads now and then crash an interpreter that shuts down in the usual way
        """
    def free_port():
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return str(s.getsockname()[1])
    def numbers(processes):
        port = free_port()
        pair = [run(code.replace("FOLDER", repr(str(tmp_path / f"{len(processes)}"))), MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo", MASTER_PORT=port, WORLD_SIZE=str(len(processes)), RANK=rank, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=str(len(processes)), ACCELERATE_USE_CPU="true")
                if len(processes) > 1 else run(code.replace("FOLDER", repr(str(tmp_path / "1")))) for rank in processes]
        outs = [p.communicate(timeout=300) for p in pair]
        for p, (out, error) in zip(pair, outs): assert p.returncode == 0, error[-3000:]
        return [next(line.split() for line in out.splitlines() if line.startswith("processes")) for out, _ in outs]
    one, two = numbers(["0"]), numbers(["0", "1"])
    assert [line[1] for line in one + two] == ["1", "2", "2"] and two[0][2] == "DistributedDataParallel"
    assert np.allclose([float(line[3]) for line in two], float(one[0][3]), atol=1e-5)
    assert (tmp_path / "1" / "epoch-00000.ckpt").exists() and (tmp_path / "2" / "epoch-00000.ckpt").exists()
