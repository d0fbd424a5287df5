"The PyTorch loop, its checkpoints, and fastai's callback."
import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hierlearn.batches import Batches, one_cycle_schedule, set_seed
from hierlearn.checkpoints import CheckpointError, CheckpointFolder, Progress, load_checkpoint, pack_state, save_checkpoint
from hierlearn.torch_training import (
    FastaiCheckpoint, TorchCheckpoint, autocast, fit, image_tensor, label_tensor, predict, train_epoch)


def one_line(error): return "\n" not in str(error.value)


# ---- checkpoints of parts

def test_torch_parts(tmp_path):
    net, rng, old, python = torch.nn.Linear(2, 2), np.random.default_rng(0), np.random.RandomState(0), random.Random(0)
    optimizer = torch.optim.Adam(net.parameters())
    parts = {"model": net, "optimizer": optimizer, "rng": rng, "old": old, "python": python, "progress": Progress("loss")}
    parts["progress"].add({"loss": 1.0}, net.state_dict)
    checkpoint = TorchCheckpoint(tmp_path, **parts)
    assert checkpoint.resume() == (0, {})
    checkpoint.save(np.int64(0), loss=np.float32(1), table={0: (1, 2)}, t=torch.ones(2))
    drawn, parts["progress"] = (rng.random(), old.rand(), python.random(), torch.rand(())), Progress("loss")
    first, info = TorchCheckpoint(tmp_path, **parts).resume()
    assert first == 1 and info["loss"] == 1 and info["table"] == {0: (1, 2)} and torch.equal(info["t"], torch.ones(2))
    assert (rng.random(), old.rand(), python.random(), torch.rand(())) == drawn and parts["progress"].history == {"loss": [1.0]}
    other = parts | {"optimizer": torch.optim.SGD(net.parameters(), 0.1)}
    with pytest.raises(CheckpointError, match="holds .*optimizer: Adam.*, not .*optimizer: SGD"): TorchCheckpoint(tmp_path, **other).resume()
    with pytest.raises(CheckpointError, match="holds model: Linear.*, not model: Linear;"): TorchCheckpoint(tmp_path, model=net).resume()
    with pytest.raises(CheckpointError, match="belongs to another model"): TorchCheckpoint(tmp_path, **parts | {"model": torch.nn.Linear(3, 2)}).resume()
    with pytest.raises(CheckpointError, match="another config"): TorchCheckpoint(tmp_path, {"lr": 1}, **parts).resume()
    with pytest.raises(ValueError, match="has no state"): TorchCheckpoint(tmp_path, model=None)
    with pytest.raises(ValueError, match="cannot hold"): pack_state({"x": object()})
    CheckpointFolder(tmp_path / "four", config=None).save(0, {})
    with pytest.raises(CheckpointError, match="holds no parts, not model: Linear"): TorchCheckpoint(tmp_path / "four", model=net).resume()


def test_all_parts_or_none(tmp_path):
    class Part:
        def state_dict(self): return {"a": 1}
        def load_state_dict(self, state): raise KeyError("b")
    class Mild(Part):
        def load_state_dict(self, state): pass
    Mild.__name__ = "Part"
    net, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    before = other.weight.detach().clone()
    TorchCheckpoint(tmp_path, model=net, part=Part()).save(0)
    class Once(Mild):
        calls = 0
        def load_state_dict(self, state):
            self.calls += 1
            if self.calls == 1: raise KeyError("b")
    Once.__name__ = "Part"
    with pytest.raises(CheckpointError, match="another part") as error: TorchCheckpoint(tmp_path, model=other, part=Once()).resume()
    assert torch.equal(other.weight, before) and one_line(error)


def test_save_without_resume_keeps_what_is_there(tmp_path):
    net = torch.nn.Linear(2, 2)
    for epoch in range(5): TorchCheckpoint(tmp_path, model=net).save(epoch)
    with pytest.raises(CheckpointError, match="of a later epoch than 0"): TorchCheckpoint(tmp_path, model=net).save(0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch-00003.ckpt", "epoch-00004.ckpt"]


def test_numpys_own_stream_is_checked_too(tmp_path):
    TorchCheckpoint(tmp_path, rng=np.random).save(0)
    path, = tmp_path.iterdir()
    content = load_checkpoint(path)
    kind, keys, _, *rest = content["state"]["parts"]["rng"]
    content["state"]["parts"]["rng"] = kind, keys, 10**9, *rest
    save_checkpoint(path, content)
    before = np.random.get_state()
    with pytest.raises(CheckpointError, match="outside of the stream"): TorchCheckpoint(tmp_path, rng=np.random).resume()
    assert np.random.get_state()[2] == before[2]


@pytest.mark.parametrize("place", [-5, 10**9])
def test_a_crafted_random_state_cannot_crash_a_resume(place, tmp_path):
    code = textwrap.dedent("""
        import sys, numpy as np, torch
        from hierlearn.checkpoints import CheckpointError
        from hierlearn.torch_training import TorchCheckpoint
        checkpoint = TorchCheckpoint(sys.argv[1], model=torch.nn.Linear(2, 2), rng=np.random.Generator(np.random.MT19937(0)))
        try: checkpoint.resume()
        except CheckpointError as error: print("refused:", error)
        np.random.random(9000), checkpoint.parts["rng"].random(9000)
        """)
    spoils = (lambda state: state["random"].update(numpy=("MT19937", np.zeros(624, "uint32"), place, 0, 0.0)),
              lambda state: state["parts"]["rng"]["state"].update(pos=place))
    for number, spoil in enumerate(spoils):
        folder = tmp_path / str(number)
        TorchCheckpoint(folder, model=torch.nn.Linear(2, 2), rng=np.random.Generator(np.random.MT19937(0))).save(0)
        path = max(folder.iterdir())
        content = load_checkpoint(path)
        spoil(content["state"])
        save_checkpoint(path, content)
        done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith("refused: ") and "outside of the stream" in done.stdout, done.stderr[-2000:]


# ---- the loop

def small_net():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Dropout(0.2), torch.nn.Linear(8, 3))
    return net.to(memory_format=torch.channels_last)


def some_images(n=64):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, n)
    images = rng.normal(size=(n, 8, 8, 3)).astype("float32")
    for k in range(3): images[labels == k, ..., k] += 0.5
    return images, labels


def run(epochs, folder=None, precision="float32", net=None, x=None, **more):
    set_seed(0)
    images, labels = some_images()
    net = net or small_net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    more = {"schedule": one_cycle_schedule(0.2, 24)} | more
    history = fit(net, Batches(images[:48] if x is None else x, labels[:48], 16), (images[48:], labels[48:]), epochs, optimizer,
                  precision=precision, checkpoints=folder, progress=False, **more)
    return net, history


def same(a, b): return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fit_learns_and_resumes(precision, tmp_path):
    net, history = run(8, tmp_path / "whole", precision)
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy", "seconds", "learning_rate"} and {len(v) for v in history.values()} == {8}
    assert history["loss"][-1] < history["loss"][0] and max(history["val_accuracy"]) > 0.6
    for epochs in (2, 5, 8): again, resumed = run(epochs, tmp_path / "part", precision)
    finished, _ = run(8, tmp_path / "part", precision)  # nothing is left to do
    without, _ = run(8, None, precision)
    assert same(net, again) and same(net, finished) and same(net, without)
    assert {k: v for k, v in history.items() if k != "seconds"} == {k: v for k, v in resumed.items() if k != "seconds"}
    images, labels = some_images()
    right = (predict(net, images[48:], precision).argmax(1) == labels[48:]).mean()
    assert right == max(history["val_accuracy"])  # the best epoch's weights
    rate = one_cycle_schedule(0.2, 24)
    assert history["learning_rate"] == [rate(3 * epoch + 2) for epoch in range(8)]


def test_fit_is_the_plain_loop():
    "Bit for bit what ten lines of PyTorch give."
    images, labels = some_images(32)
    batches, rate = Batches(images, labels, 8), one_cycle_schedule(0.2, 8)
    set_seed(1)
    ours, plain = small_net(), small_net()
    plain.load_state_dict(ours.state_dict())
    set_seed(2)
    history = fit(ours, batches, None, 2, torch.optim.SGD(ours.parameters(), momentum=0.9), rate, monitor="loss", mode="max", progress=False)
    set_seed(2)
    optimizer, losses = torch.optim.SGD(plain.parameters(), momentum=0.9), []
    for step in range(4):
        x, y = batches.batch(step)
        optimizer.param_groups[0]["lr"] = rate(step)
        loss = torch.nn.functional.cross_entropy(plain(torch.from_numpy(x).permute(0, 3, 1, 2)), torch.from_numpy(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isclose(history["loss"][0], np.mean(losses), rtol=1e-6)
    assert same(ours, plain)  # mode="max": the first epoch has the higher loss and is the best


def test_the_best_epoch_of_the_loop(tmp_path):
    net, history = run(6, tmp_path, monitor="val_loss")
    images, labels = some_images()
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(predict(net, images[48:])), torch.from_numpy(labels[48:]))
    assert np.isclose(float(loss), min(history["val_loss"]), rtol=1e-6)


def test_what_fit_refuses(tmp_path):
    images, labels = some_images(16)
    run(1, tmp_path / "a")
    changed = some_images()[0][:48]
    changed[40, 2, 2, 1] += 1
    for more, text in ((dict(x=changed), "another data"), (dict(schedule=None), "another schedule"), (dict(monitor="loss"), "another monitor"), (dict(config=1), "another config")):
        with pytest.raises(CheckpointError, match=text) as error: run(2, tmp_path / "a", **more)
        assert one_line(error)
    with pytest.raises(CheckpointError, match="belongs to another model"): run(2, tmp_path / "a", net=torch.nn.Sequential(torch.nn.Conv2d(3, 3, 8), torch.nn.Flatten()))
    run(2, tmp_path / "a")
    with pytest.raises(CheckpointError, match="has 2 epochs, more than epochs=1"): run(1, tmp_path / "a")
    cases = {"precision must be one of float32, bfloat16": lambda: run(1, precision="half"), "monitor must be one of loss, accuracy, val_loss.*near: val_accuracy": lambda: run(1, monitor="val_acuracy"),
             "epochs must be": lambda: run(0), "schedule must be a function": lambda: run(1, schedule=0.1), "mode must be": lambda: run(1, mode="best")}
    for text, bad in cases.items():
        with pytest.raises(ValueError, match=text) as error: bad()
        assert one_line(error)
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(ValueError, match="batches must be Batches"): fit(net, (images, labels), None, 1, optimizer, monitor="loss", progress=False)
    with pytest.raises(ValueError, match="needs validation"): fit(net, Batches(images, labels, 8), None, 1, optimizer, progress=False)
    with pytest.raises(ValueError, match="validation: 16 images but 3 labels"): fit(net, Batches(images, labels, 8), (images, labels[:3]), 1, optimizer, progress=False)
    with pytest.raises(FloatingPointError, match="the loss is nan in epoch 2") as error:
        fit(net, Batches(images, labels, 8, lambda x, rng: x), None, 3, optimizer, lambda step: 0.1 if step < 1 else float("inf"), monitor="loss", checkpoints=tmp_path / "b", progress=False)
    assert one_line(error) and [p.name for p in (tmp_path / "b").iterdir()] == ["epoch-00000.ckpt"]


def test_predict_and_tensors():
    images, labels = some_images(10)
    net = small_net()
    net.train()
    whole = predict(net, images)
    assert whole.shape == (10, 3) and whole.dtype == np.float32 and net.training
    assert np.allclose(whole, predict(net, images, batch_size=3), atol=1e-6)
    half = predict(net, images, "bfloat16")
    assert not np.array_equal(half, whole) and np.allclose(half, whole, atol=0.1)
    view = image_tensor(images)
    assert view.shape == (10, 3, 8, 8) and view.is_contiguous(memory_format=torch.channels_last) and view.data_ptr() == images.ctypes.data
    assert image_tensor(images[:, 0, 0]).shape == (10, 3)
    assert label_tensor(labels.astype("uint8")).dtype == torch.int64 and label_tensor(np.ones((2, 3))).dtype == torch.float64
    with autocast(torch.device("cpu"), "bfloat16"): assert net(view).dtype == torch.bfloat16
    net.eval()
    values = train_epoch(net, Batches(images, labels.astype("int32"), 5), 0, torch.optim.SGD(net.parameters(), 0.0), loss=lambda logits, y: logits.sum() * 0 + 2)
    assert values["loss"] == 2 and 0 <= values["accuracy"] <= 1 and net.training


# ---- fastai

def fastai_learner(*cbs):
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    set_seed(0)
    data = [(torch.randn(5), torch.tensor(i % 3)) for i in range(24)]
    loaders = DataLoaders(DataLoader(data, bs=8, shuffle=True, num_workers=0), DataLoader(data, bs=8, num_workers=0))
    return Learner(loaders, torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)), loss_func=torch.nn.functional.cross_entropy, cbs=list(cbs))


def test_fastai_is_not_needed_for_the_room():
    code = "import sys, hierlearn.torch_training as t; t.FastaiCheckpoint('x'); print([m for m in ('fastai', 'fastcore', 'keras', 'tensorflow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_fastai_takes_it_as_a_callback(tmp_path):
    pytest.importorskip("fastai")
    from fastai.callback import progress, schedule  # noqa: F401, gives Learner.no_bar and lr_find
    checkpoint = FastaiCheckpoint(tmp_path)
    learn = fastai_learner()
    with learn.no_bar(), learn.no_logging():
        learn.fit(3, 0.01, cbs=checkpoint)
        best = min(row[1] for row in learn.recorder.values)
        assert np.isclose(learn.validate()[0], best, rtol=1e-5)  # the best epoch's weights
        learn.get_preds()
        learn.add_cb(checkpoint)
        learn.lr_find(num_it=3, show_plot=False)  # neither writes a checkpoint nor resumes one
    assert checkpoint.fits == 1 and sorted(p.name for p in tmp_path.iterdir()) == ["epoch-00001.ckpt", "epoch-00002.ckpt"]
    with pytest.raises(ValueError, match="monitor must be one of"), learn.no_bar(), learn.no_logging(): fastai_learner().fit(1, cbs=FastaiCheckpoint(tmp_path / "m", monitor="valid_los"))
    with pytest.raises(ValueError, match="mode must be"): FastaiCheckpoint(tmp_path, mode="best")


def test_fastai_trackers_and_two_fits(tmp_path):
    pytest.importorskip("fastai")
    from fastai.callback.core import Callback
    from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
    class Dies(Callback):
        order = 70
        def __init__(self, at): self.at, self.ran = at, []
        def before_batch(self):
            if not self.training: return
            if self.at == (self.learn.fits, self.epoch): raise KeyboardInterrupt
            if (self.learn.fits, self.epoch) not in self.ran: self.ran.append((self.learn.fits, self.epoch))
        def after_fit(self): self.learn.fits += 1
    def run(folder, at=None):
        dies = Dies(at)
        learn = fastai_learner(dies, ReduceLROnPlateau(patience=0, min_delta=9), EarlyStoppingCallback(patience=9))
        learn.fits = 0
        checkpoint = FastaiCheckpoint(folder, restore_best=False)
        try:
            with learn.no_bar(), learn.no_logging():
                learn.fit(2, 0.01, cbs=checkpoint)
                learn.fit(3, 0.02, cbs=checkpoint)
        except KeyboardInterrupt: pass
        return torch.cat([p.detach().ravel() for p in learn.model.parameters()]), dies.ran
    whole, ran = run(tmp_path / "whole")
    assert ran == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    run(tmp_path / "part", at=(1, 1))
    again, ran = run(tmp_path / "part")
    assert ran == [(1, 1), (1, 2)] and torch.equal(whole, again)  # the first fit and one epoch of the second were there
    learn = fastai_learner(SaveModelCallback())
    with pytest.raises(ValueError, match="keeps the best weights itself"), learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=FastaiCheckpoint(tmp_path / "save"))
    from fastai.optimizer import SGD
    learn = fastai_learner()
    learn.opt_func = SGD
    with pytest.raises(CheckpointError, match="another optimizer"), learn.no_bar(), learn.no_logging(): learn.fit(2, cbs=FastaiCheckpoint(tmp_path / "whole"))
