"The PyTorch loop, its checkpoints, and fastai's callback."
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hierlearn.batches import Batches, set_seed
from hierlearn.checkpoints import CheckpointError, CheckpointFolder, config_digest, pack_state
from hierlearn.torch_training import TorchCheckpoint, fastai_checkpoint, fit, predict


def test_torch_checkpoint_errors(tmp_path):
    net = torch.nn.Linear(2, 2)
    checkpoint = TorchCheckpoint(tmp_path, model=net)
    assert checkpoint.resume() == (0, {})
    with pytest.raises(ValueError, match="best=True"): checkpoint.load_best()
    checkpoint.save(0, note="x")
    assert TorchCheckpoint(tmp_path, model=net).resume() == (1, {"note": "x"})
    with pytest.raises(CheckpointError, match="belongs to another model"): TorchCheckpoint(tmp_path, model=torch.nn.Linear(3, 2)).resume()
    with pytest.raises(CheckpointError, match="pass the same parts"): TorchCheckpoint(tmp_path, model=net, generator=torch.Generator()).resume()
    with pytest.raises(ValueError, match="has no state"): TorchCheckpoint(tmp_path, model=None)
    with pytest.raises(ValueError, match="cannot hold"): pack_state({"x": object()})


def test_fastai_checkpoint_is_a_callback(tmp_path):
    callback = pytest.importorskip("fastai.callback.core")
    assert isinstance(fastai_checkpoint(tmp_path), callback.Callback)  # test_resume.py trains with it


def test_torch_parts(tmp_path):
    net, rng = torch.nn.Linear(2, 2), np.random.default_rng(0)
    optimizer = torch.optim.Adam(net.parameters())
    checkpoint = TorchCheckpoint(tmp_path, model=net, optimizer=optimizer, rng=rng)
    checkpoint.save(np.int64(0), best=True, loss=np.float32(1), table={0: (1, 2)}, t=torch.ones(2))
    drawn = rng.random()
    first, info = TorchCheckpoint(tmp_path, model=net, optimizer=optimizer, rng=rng).resume()
    assert first == 1 and info["loss"] == 1 and info["table"] == {0: (1, 2)} and torch.equal(info["t"], torch.ones(2)) and rng.random() == drawn
    with pytest.raises(CheckpointError, match="holds a Adam as optimizer, not a SGD"): TorchCheckpoint(tmp_path, model=net, optimizer=torch.optim.SGD(net.parameters(), 0.1), rng=rng).resume()
    other = torch.nn.Linear(2, 2)
    before = other.weight.clone()
    class Part:
        def state_dict(self): return {"a": 1}
        def load_state_dict(self, state): raise KeyError("b")
    TorchCheckpoint(tmp_path / "two", model=net, part=Part()).save(0)
    with pytest.raises(CheckpointError, match="another part"): TorchCheckpoint(tmp_path / "two", model=other, part=Part()).resume()
    assert torch.equal(other.weight, before)  # all parts, or none
    with pytest.raises(ValueError, match="pass model="): TorchCheckpoint(tmp_path / "three", net=net).save(0, best=True)
    CheckpointFolder(tmp_path / "four", config_digest(None)).save(0, {}, {})
    with pytest.raises(CheckpointError, match="not written by a TorchCheckpoint"): TorchCheckpoint(tmp_path / "four", model=net).resume()


def fastai_learner(*cbs):
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    set_seed(0)
    data = [(torch.randn(5), torch.tensor(i % 3)) for i in range(24)]
    loaders = DataLoaders(DataLoader(data, bs=8, shuffle=True, num_workers=0), DataLoader(data, bs=8, num_workers=0))
    return Learner(loaders, torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)), loss_func=torch.nn.functional.cross_entropy, cbs=list(cbs))


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
        checkpoint = fastai_checkpoint(folder, restore_best=False)
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
    with pytest.raises(ValueError, match="keeps the best weights itself"), learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=fastai_checkpoint(tmp_path / "save"))
    from fastai.optimizer import SGD
    learn = fastai_learner()
    learn.opt_func = SGD
    with pytest.raises(CheckpointError, match="another optimiser"), learn.no_bar(), learn.no_logging(): learn.fit(2, cbs=fastai_checkpoint(tmp_path / "whole"))
