"The six-layer net as an experiment: both engines, the recipe's numbers, weights that carry over."
from dataclasses import asdict, replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("keras")

from hierlearn.basics import import_torch
from hierlearn.experiments.six_layer import (
    ARMS, CONFIGS, SixLayerConfig, build_keras, compile_keras, experiment, learning_rate, measure, pack,
    prepare, six_layer_net, stages, sum_up, to_keras, train, train_keras, train_torch)
from hierlearn.models import build_six_layer_net
from hierlearn.records import read_record
from hierlearn.runs import Job

torch = import_torch()
SMALL = replace(CONFIGS["tiny"], epochs=1, train_images=512, precision="float32")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("six_layer")
    return folder, experiment.run("tiny", folder, progress=False)


def test_all_stages_run_and_learn(whole):
    folder, record = whole
    for name in ARMS:
        stage = read_record(f"six_layer_{name}", "tiny", folder)
        assert stage.metrics["test_accuracy"] > 0.5 and stage.header["data"] == "shapes"  # chance is 0.05
        assert stage.header["framework"] == ("keras" if name.startswith("keras") else "torch")
        epochs = len(stage.curves["loss"])
        assert epochs == len(stage.curves["val_accuracy"]) == 6 and stage.curves["loss"][-1] < stage.curves["loss"][0]
        assert stage.arrays["test_logits"].shape == (1000, 20) and stage.arrays["test_logits"].dtype == np.float16
        assert stage.arrays["validation_labels"].dtype == np.uint8
        assert record.metrics[name] == stage.metrics["test_accuracy"]
    assert abs(record.metrics["keras_minus_torch"]) < 0.1
    assert record.metrics["test_accuracy"] == record.metrics["vgg6_cifar10"]


def test_the_same_training_has_the_same_numbers(whole):
    folder, _ = whole
    first, same = (read_record(f"six_layer_{name}", "tiny", folder) for name in ("vgg6_cifar10", "vgg6_cifar100"))
    assert first.curves["loss"] == same.curves["loss"] and first.metrics == same.metrics
    assert first.header["key"] != same.header["key"]


def test_quick_stages_are_those_of_the_recipe():
    configs = {stage.name: stage.config for stage in stages(SixLayerConfig(precision="bfloat16"))}
    assert {name: (c.data, c.engine, c.epochs) for name, c in configs.items()} == {
        "vgg6_cifar10": ("cifar10", "torch", 22), "vgg6_cifar10_long": ("cifar10", "torch", 60),
        "vgg6_cifar100": ("cifar100", "torch", 12), "keras_cifar10": ("cifar10", "keras", 22)}
    quick = asdict(CONFIGS["quick"])
    assert (quick["batch_size"], quick["learning_rate"], quick["momentum"], quick["weight_decay"]) == (256, 0.4, 0.9, 5e-4)
    assert (quick["shift"], quick["validation"], quick["widths"]) == (2, 5000, (32, 32, 64, 64, 128, 128))
    assert asdict(replace(configs["keras_cifar10"], engine="torch")) == asdict(configs["vgg6_cifar10"])


def test_the_rate_is_one_cycle_of_straight_lines():
    rate = learning_rate(SixLayerConfig(epochs=22), 175)
    steps = 22 * 175
    assert rate(0) == pytest.approx(0.04) and rate(steps - 1) == pytest.approx(4e-4)
    assert max(map(rate, range(steps))) == pytest.approx(0.4, rel=1e-3)
    assert rate(steps // 8) == pytest.approx(0.22, rel=1e-2)  # half of the way up


def test_the_task_is_split_standardised_and_in_label_order():
    task = prepare(SMALL)
    assert len(task.taxonomy.leaves) == 20 and len(task.batches.images) == 512
    assert len(task.validation[1]) == 500 and len(task.test[1]) == 1000
    assert abs(float(task.normalize(task.batches.images).mean())) < 1e-3
    assert not np.array_equal(task.batches.batch(0)[0], task.normalize(task.batches.images[task.batches.order(0)[:64]]))


def random_net(widths=(8, 8, 16, 16, 16, 16)):
    torch.manual_seed(0)
    net = six_layer_net(10, widths)
    with torch.no_grad():
        for m in net:
            if isinstance(m, torch.nn.BatchNorm2d):
                m.running_mean.normal_(), m.running_var.uniform_(0.5, 2), m.weight.uniform_(0.5, 2), m.bias.normal_()
    return net.eval()


def test_weights_carry_over_to_keras():
    net = random_net()
    model = to_keras(net, build_six_layer_net(10, widths=(8, 8, 16, 16, 16, 16)))
    x = np.random.default_rng(1).normal(size=(4, 32, 32, 3)).astype("float32")
    ours = net(torch.from_numpy(x).permute(0, 3, 1, 2)).detach().numpy()
    assert np.abs(ours - model.predict(x, verbose=0)).max() < 1e-4 * max(1, np.abs(ours).max())


def test_one_step_of_both_engines_moves_the_weights_alike():
    "Nesterov's momentum and the decay of the kernels are the same arithmetic in both."
    config = replace(SMALL, widths=(4, 4, 4, 4, 8, 8), weight_decay=0.1)
    net = six_layer_net(20, config.widths)
    model = compile_keras(to_keras(net, build_keras(config, 20, "float32")), config)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 32, 32, 3)).astype("float32"), rng.integers(0, 20, 32)
    kernels = [p for p in net.parameters() if p.ndim > 1]
    groups = [{"params": kernels, "weight_decay": 0.1}, {"params": [p for p in net.parameters() if p.ndim == 1]}]
    sgd = torch.optim.SGD(groups, config.learning_rate, config.momentum, nesterov=True)
    net.train()
    for _ in range(2):
        logits = net(torch.from_numpy(x).permute(0, 3, 1, 2))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y))
        sgd.zero_grad(), loss.backward(), sgd.step()
        model.train_on_batch(x, y)
    ours = to_keras(net, build_keras(config, 20, "float32"))
    for a, b in zip(ours.trainable_variables, model.trainable_variables):
        assert np.abs(np.asarray(a) - np.asarray(b)).max() < 2e-3 * max(1, np.abs(np.asarray(a)).max()), a.path


def test_the_policy_of_the_session_stays():
    import keras
    before = keras.config.dtype_policy().name
    assert build_keras(SMALL, 20, "bfloat16").get_layer("conv1").compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == before


@pytest.mark.parametrize("engine", ["torch", "keras"])
def test_a_training_resumes_to_the_same_numbers(engine, tmp_path):
    "Killed after the first of two epochs, it ends with the same weights."
    config = replace(SMALL, engine=engine, epochs=2)
    task, run = prepare(config), {"torch": train_torch, "keras": train_keras}[engine]
    job = lambda folder: Job(config, "float32", {}, tmp_path / folder)
    _, history, weights = run(job("whole"), task)
    class Killed(Exception): pass
    class Stops(type(task.batches)):
        def batch(self, step):
            if step >= len(self) * 2 - 2: raise Killed("by the test")
            return super().batch(step)
    stops = Stops(task.batches.images, task.batches.labels, config.batch_size, task.batches.transform, config.seed)
    with pytest.raises(Exception, match="by the test"): run(job("killed"), replace(task, batches=stops))
    _, again, same = run(job("killed"), task)
    assert again["loss"] == history["loss"] and len(again["loss"]) == 2
    assert all(np.array_equal(weights[name], same[other]) for name, other in zip(weights, same))


def test_measure_and_pack():
    task = prepare(SMALL)
    sure = lambda images, precision: np.eye(20, dtype=np.float32)[(task.test if len(images) == 1000 else task.validation)[1]] * 9
    metrics, arrays = measure(sure, task, "float32")
    assert metrics["test_accuracy"] == metrics["test_accuracy_flip"] == metrics["validation_accuracy"] == 1
    assert set(arrays) == {"validation_logits", "test_logits", "validation_labels", "test_labels"}
    packed = pack({"test": (np.ones((2, 3)), np.array([0, 2]))})
    assert packed["test_logits"].dtype == np.float16 and packed["test_labels"].tolist() == [0, 2]


def test_a_stage_ends_in_a_result_with_weights(tmp_path):
    result = train(Job(SMALL, "float32", {}, tmp_path, False, lambda: prepare(SMALL)))
    assert result.header["images"] == 1000 and result.metrics["parameters"] == 19_180
    with np.load(tmp_path / "weights.npz") as weights: assert sum(weights[n].size for n in weights) == 19_180


def test_the_summary_names_every_stage(whole):
    folder, _ = whole
    records = {name: read_record(f"six_layer_{name}", "tiny", folder) for name in ARMS}
    assert set(ARMS) <= set(sum_up(CONFIGS["tiny"], records).metrics)
