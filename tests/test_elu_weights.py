"The ELU network that comes with the package: its file, its card, and the accuracy of its record."
import importlib.util
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras")
pytest.importorskip("safetensors")

from hierlearn.datasets import load_cifar100, stratified_split
from hierlearn.elu_cifar100 import build_elu_cnn, count_parameters, load_pretrained, widen
from hierlearn.models import read_weights, save_weights
from hierlearn.preprocessing import ZCA, global_contrast_normalization
from hierlearn.records import Record, read_record

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = Path(str(resources.files("hierlearn"))) / "weights" / "elu_cifar100.safetensors"
RECORD = ROOT / "nbs" / "results" / "elu_cifar100_train.quick.json"
SMALL = dict(stacks="[1×8×3], [2×8×2], [1×5×1]", num_classes=5, width=1.0, activation="elu", activation_per="layer",
             batch_norm=False, dropout=[0.0, 0.5], dropout_per="stack")


def tool():
    sys.path.insert(0, str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("ship_weights", ROOT / "tools" / "ship_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_network_comes_back_from_its_file(tmp_path):
    net = build_elu_cnn(**SMALL)
    path = save_weights(net, tmp_path / "net.safetensors", network=SMALL)
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    found = load_pretrained(path)
    assert np.allclose(found.predict(x, verbose=0), net.predict(x, verbose=0), atol=0.01)
    assert found.count_params() == net.count_params() and {str(w.dtype) for w in found.weights} == {"float32"}


@pytest.mark.parametrize("notes", [
    {}, {"network": 3}, {"network": {}}, {"network": {**SMALL, "stacks": "no"}}, {"network": {**SMALL, "other": 1}},
    {"network": {**SMALL, "width": 1e9}}, {"network": {**SMALL, "width": "x"}}, {"network": {**SMALL, "stacks": 3}}])
def test_files_of_other_networks_are_refused(tmp_path, notes):
    "A width that would fill the memory is refused before anything is built."
    path = save_weights(build_elu_cnn(**SMALL), tmp_path / "net.safetensors", **notes)
    with pytest.raises(ValueError, match=r"net.safetensors holds no ELU network \(.*\); write it with network=") as e: load_pretrained(path)
    assert "\n" not in str(e.value)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*none"): load_pretrained(tmp_path / "none")


@pytest.fixture
def trained(tmp_path):
    "The tool with folders of its own, the record of a training, and what the training left."
    made, network = tool(), {**SMALL, "num_classes": 100, "stacks": "[1×8×3], [2×8×2], [1×100×1]"}
    made.WEIGHTS = tmp_path / "weights" / "elu_cifar100.safetensors"
    config = {**network, "schedule": "cosine", "train_images": None, "validation": 5000, "zca_epsilon": 0.1, "epochs": 3, "batch_size": 100}
    header = {"name": "elu_cifar100_train", "profile": "quick", "config": config, "data": "cifar100", "data_sha256": "1", "commit": "2", "date": "2026-01-01",
              "seed": 0, "precision": "bfloat16", "threads": 2, "processor": "some", "seconds": 90.0}
    metrics = {"parameters": 1234, "test_accuracy": 0.61234, "validation_accuracy": 0.6, "coarse_accuracy_1": 0.75, "coarse_accuracy_1_interval": [0.7, 0.8]}
    return made, Record(header, metrics).write(tmp_path), tmp_path / "elu_cifar100_train.quick.json", build_elu_cnn(**network)


@pytest.mark.parametrize("kind", ["keras", "safetensors"])
def test_the_tool_puts_network_and_card_into_the_package(trained, tmp_path, kind):
    made, record, path, net = trained
    source = tmp_path / f"left.{kind}"
    if kind == "keras": net.save(source)
    else: save_weights(net, source)
    shipped, x = made.ship(source, record, path), np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")
    assert np.allclose(load_pretrained(shipped).predict(x, verbose=0), net.predict(x, verbose=0), atol=0.01)
    about = read_weights(shipped)[0]
    assert about["record_sha256"] == made.digest(path) and about["test_accuracy"] == 0.61234 and about["data"] == "cifar100"
    card, config = made.card(record, path), record.header["config"]
    weights = f"{count_parameters(widen(config['stacks'], config['width'])):,} parameters"
    for text in ("| 0.6123 |", "0.7500", weights, "3-layer", "45,000 training images", "2 minutes on 2 thread(s) of some", "Apache-2.0", made.digest(path)): assert text in card


def test_file_and_card_are_of_the_record():
    made, record = tool(), read_record("elu_cifar100_train", "quick", folder=RECORD.parent)
    about, arrays = read_weights(SHIPPED)
    assert SHIPPED.stat().st_size <= 6_000_000
    assert (about["record"], about["record_sha256"], about["test_accuracy"]) == ("elu_cifar100_train.quick", made.digest(RECORD), record.metrics["test_accuracy"])
    assert SHIPPED.with_suffix(".md").read_text("utf-8") == made.card(record, RECORD), "run python tools/ship_weights.py"
    model = load_pretrained()
    assert sum(w.numpy().size for w in model.trainable_variables) == 2_484_452 and model.output_shape == (None, 100)
    # the record counts the rates of the five dropout layers, too
    assert model.count_params() == record.metrics["parameters"] == 2_484_457
    assert not [layer for layer in model.layers if "norm" in layer.name]


@pytest.mark.timeout(900)
def test_it_reproduces_the_recorded_accuracy(cifar100_root):
    "1,000 test images, whitened by the statistics of the training images alone, against the logits of the record."
    record, (about, _) = read_record("elu_cifar100_train", "quick", folder=RECORD.parent), read_weights(SHIPPED)
    data = load_cifar100(cifar100_root)
    train, _ = stratified_split(data.train.labels, about["validation"], seed=0)
    zca = ZCA(about["zca_epsilon"]).fit(global_contrast_normalization(data.train.images[train]))
    labels = data.test.labels[:1000]
    logits = load_pretrained().predict(zca.transform(global_contrast_normalization(data.test.images[:1000])), batch_size=250, verbose=0)
    recorded = record.arrays["test_logits"][:1000].astype(np.float32)
    assert (record.arrays["test_labels"][:1000] == labels).all()
    assert abs((logits.argmax(1) == labels).mean() - (recorded.argmax(1) == labels).mean()) <= 0.01
    assert (logits.argmax(1) == recorded.argmax(1)).mean() >= 0.97  # float16 weights, float32 sums
    whole = (record.arrays["test_logits"].astype(np.float32).argmax(1) == record.arrays["test_labels"]).mean()
    assert abs(whole - record.metrics["test_accuracy"]) < 0.001
    assert abs((logits.argmax(1) == labels).mean() - record.metrics["test_accuracy"]) < 0.045  # three standard errors
