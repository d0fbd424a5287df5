"""Trainings that are killed again and again; run by test_resume.py.

    python resume_runs.py KIND FOLDER KILLS SEED        KIND: keras (backend by $KERAS_BACKEND), torch, loop, fastai

The frameworks are imported once; every attempt is a fork of this process, which dies by SIGKILL at a random event of its plan.
Prints one line of JSON: the digest of the uninterrupted run, that of the run that was killed, and at which events it was.
"""
import hashlib
import io
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np

from hierlearn import batches, checkpoints

EPOCHS, STEPS = 6, 5
PLAN = [None, 0]  # event and how many of it are left


def tick(event):
    "An event of the training; the process dies here when its plan says so."
    if PLAN[0] != event: return
    PLAN[1] -= 1
    if PLAN[1] <= 0: os.kill(os.getpid(), signal.SIGKILL)


class HalfWritten(io.FileIO):
    "A file whose process may die when half of its longest part is written."
    def write(self, content):
        if len(content) < 1000: return super().write(content)
        super().write(content[: len(content) // 2])
        tick("half written")
        return super().write(content[len(content) // 2 :])


def watch_writing():
    "Let the process be killed in the middle of a file, and on both sides of the rename."
    replace = os.replace
    def slow_replace(a, b):
        tick("before rename")
        replace(a, b)
        tick("after rename")
    checkpoints.open, os.replace = HalfWritten, slow_replace


def data():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (STEPS * 16 + 3, 8, 8, 3)).astype("uint8"), rng.integers(0, 4, STEPS * 16 + 3)


def digest(arrays, history):
    h = hashlib.sha256(json.dumps(history, sort_keys=True).encode())
    for array in arrays: h.update(np.ascontiguousarray(array).tobytes())
    return h.hexdigest()


def keras_run(folder):
    import keras
    from keras import layers

    from hierlearn import keras_training
    batches.set_seed(0)
    images, labels = data()
    def augment(images, rng):
        tick("step")
        return (images + rng.normal(0, 8, images.shape)).astype("float32") / 255
    # one layer of each kind of randomness: with a seed, without one, an augmentation layer, and ours
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.RandomFlip("horizontal"), layers.Conv2D(8, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU(),
                              layers.Flatten(), layers.Dropout(0.3), layers.Dense(16, activation="relu"), layers.Dropout(0.3, seed=7), keras_training.ScheduledDropout(0.1, seed=3), layers.Dense(4)])
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    history = keras_training.fit(model, batches.Batches(images, labels, 16, augment, seed=1), (images.astype("float32") / 255, labels), EPOCHS, batches.cosine_schedule(0.01, EPOCHS * STEPS),
                           checkpoints=folder, config={"epochs": EPOCHS}, progress=False, dropout=lambda step: 0.1 if step < 12 else 0.4)
    last = checkpoints.load_checkpoint(max(Path(folder).glob("*.ckpt")))["state"]
    return digest([keras.ops.convert_to_numpy(w) for w in model.weights] + last["variables"], {k: v for k, v in history.items() if k != "seconds"})


def torch_data():
    import torch
    images, labels = data()
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)


def torch_net():
    from torch import nn
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(288, 4))


def torch_run(folder):
    import torch

    from hierlearn import torch_training
    batches.set_seed(0)
    x, y = torch_data()
    net, generator = torch_net(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=EPOCHS * 6)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 16, shuffle=True, generator=generator)
    progress = checkpoints.Progress("loss")
    checkpoint = torch_training.TorchCheckpoint(folder, {"epochs": EPOCHS}, model=net, optimizer=optimizer, scheduler=scheduler, generator=generator, progress=progress)
    first, info = checkpoint.resume()
    losses = info.get("losses", [])
    for epoch in range(first, EPOCHS):
        for images, labels in loader:
            tick("step")
            if random.random() < 0.5: images = images.flip(3)  # Python's stream
            images = images + float(np.random.normal(0, 0.1)) * torch.rand_like(images)  # NumPy's and PyTorch's
            loss = torch.nn.functional.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        losses.append(loss.item())
        progress.add({"loss": losses[-1]}, weights=lambda: {name: t.clone() for name, t in net.state_dict().items()})
        checkpoint.save(epoch, losses=losses)
    last = [t.detach().numpy().copy() for t in net.state_dict().values()]
    net.load_state_dict(progress.best)
    return digest(last + [t.detach().numpy() for t in net.state_dict().values()], {"loss": losses})


def loop_run(folder):
    "The loop of the house, in bfloat16, the channels last in memory."
    import torch

    from hierlearn import torch_training
    batches_of = batches.Batches(*data(), 16, lambda images, rng: [tick("step"), (images + rng.normal(0, 8, images.shape)).astype("float32") / 255][1], seed=1)
    batches.set_seed(0)
    images, labels = data()
    net = torch_net().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), momentum=0.9, nesterov=True)
    history = torch_training.fit(net, batches_of, (images.astype("float32") / 255, labels), EPOCHS, optimizer, batches.one_cycle_schedule(0.1, EPOCHS * STEPS), "bfloat16",
                                 folder, {"epochs": EPOCHS}, progress=False)
    parts = checkpoints.load_checkpoint(max(Path(folder).glob("*.ckpt")))["state"]["parts"]
    state = [t.float().numpy() for t in [*net.state_dict().values(), *parts["model"].values(), *(s["momentum_buffer"] for s in parts["optimizer"]["state"].values())]]
    return digest(state, {k: v for k, v in history.items() if k != "seconds"})


def fastai_run(folder):
    import torch
    from fastai.callback import schedule  # noqa: F401, gives Learner.fit_one_cycle
    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner

    from hierlearn import torch_training
    batches.set_seed(0)
    items = list(zip(*torch_data()))
    class Noise(Callback):
        def before_batch(self):
            if not self.training: return
            tick("step")
            self.learn.xb = (self.xb[0] + 0.1 * torch.rand_like(self.xb[0]) * np.random.rand() * random.random(),)
    loaders = DataLoaders(DataLoader(items, bs=16, shuffle=True, num_workers=0), DataLoader(items, bs=16, num_workers=0))
    learn = Learner(loaders, torch_net(), loss_func=torch.nn.functional.cross_entropy, cbs=Noise())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(EPOCHS, 0.02, cbs=torch_training.FastaiCheckpoint(folder, {"epochs": EPOCHS}))
    rows = [[float(v) for v in row] for row in learn.recorder.values]
    return digest([t.detach().numpy() for t in learn.model.state_dict().values()], {"values": rows, "lrs": learn.recorder.lrs})


def attempt(run, folder, event=None, count=0):
    "One process of the training: its exit code, or the signal that ended it as a negative number."
    pid = os.fork()
    if pid == 0:
        try:
            PLAN[:] = [event, count]
            watch_writing()
            result = run(folder)
            Path(f"{folder}.digest").write_text(result)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if event == "clock":
        time.sleep(count)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status)


def main(kind, folder, kills, seed):
    run, rng = {"keras": keras_run, "torch": torch_run, "loop": loop_run, "fastai": fastai_run}[kind], random.Random(int(seed))
    # imported before the forks, not used before: threads do not survive a fork
    if kind == "keras": import keras  # noqa: F401
    if kind != "keras": import torch._dynamo  # noqa: F401
    if kind == "fastai": import fastai.learner  # noqa: F401
    folder = Path(folder)
    start = time.perf_counter()
    if attempt(run, folder / "whole"): sys.exit("the uninterrupted run failed")
    whole = time.perf_counter() - start
    done, events = 0, []
    for _ in range(10 * int(kills)):
        if done >= int(kills): break
        # every third kill while a checkpoint is written
        event = ["step", "step", ["half written", "before rename", "after rename"][done % 3]][done % 3] if done % 5 != 4 else "clock"
        if done % 3 == 2: event = ["half written", "before rename", "after rename"][done // 3 % 3]
        count = rng.uniform(0.1, 0.9) * whole if event == "clock" else rng.randint(1, 9) if event == "step" else 1
        code = attempt(run, folder / "killed", event, count)
        if code == 0:  # it came to its end before its plan: begin again
            if (folder / "killed.digest").read_text() != (folder / "whole.digest").read_text(): break
            for file in (folder / "killed").glob("*"): file.unlink()
            continue
        if code != -signal.SIGKILL: sys.exit(f"an attempt ended with {code}")
        done += 1
        events.append(event)
    for left in (folder / "killed").glob(".*"): os.utime(left, (0, 0))  # what a kill left is swept once it is old
    if attempt(run, folder / "killed"): sys.exit("the last attempt failed")
    left = sorted(file.name for file in (folder / "killed").iterdir())
    print(json.dumps({"whole": (folder / "whole.digest").read_text(), "killed": (folder / "killed.digest").read_text(), "events": events, "files": left}))


if __name__ == "__main__": main(*sys.argv[1:])
