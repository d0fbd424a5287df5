"""Train the six-layer net of `hierlearn.models` on real CIFAR-10 or CIFAR-100 and write its record.

    HIERLEARN_DATA=... python tests/benchmarks/train_six_layer.py --data cifar100 --epochs 12

It goes on from its last checkpoint when it was killed. The training loop is plain PyTorch (bfloat16 where the processor
has it, channels_last), the fastest of the engines on a CPU; `to_keras` moves the weights into the Keras model of `hierlearn.models`.
Written to --results: vgg6_<data>.quick.json; with --logits also six_layer_<data>.npz with the logits of the validation and test images.
"""
import argparse
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from hierlearn import datasets
from hierlearn.preprocessing import channel_statistics, random_crop, random_flip, standardize
from hierlearn.training import Batches, CheckpointFolder, config_digest, pick_precision, write_record


@dataclass(frozen=True)
class SixLayerConfig:
    "Every setting of a training of the six-layer net."
    data: str = "cifar10"  # "cifar10", "cifar100" or "shapes"
    epochs: int = 12
    batch_size: int = 256
    learning_rate: float = 0.4  # highest, for a mean loss
    warmup: float = 0.25  # share of the steps in which the rate rises
    momentum: float = 0.9  # Nesterov
    weight_decay: float = 5e-4  # added to the gradient of kernels, not of batch norm and biases
    label_smoothing: float = 0.0
    shift: int = 2  # pixels of padding (reflected) before the random crop
    validation: int = 5_000  # images held out of the training set
    widths: tuple = (32, 32, 64, 64, 128, 128)
    precision: str = "auto"  # "auto", "bfloat16" or "float32"
    limit: int | None = None  # use so many images of each part only, to try the script
    seed: int = 0


def six_layer_net(num_classes, widths):
    "The net of `hierlearn.models.build_six_layer_net` as a PyTorch module: (N, 3, H, W) -> (N, num_classes) logits."
    layers, channels = [], 3
    for i, width in enumerate(widths, 1):
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        nn.init.normal_(conv.weight, std=(2 / (9 * channels)) ** 0.5)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        if i % 2 == 0: layers.append(nn.MaxPool2d(2))
        channels = width
    head = nn.Linear(channels, num_classes)
    nn.init.xavier_uniform_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).to(memory_format=torch.channels_last)


def to_keras(net, model):
    "Copy the weights of the PyTorch net into the Keras model of the same shape."
    convs = [m for m in net if isinstance(m, nn.Conv2d)]
    norms = [m for m in net if isinstance(m, nn.BatchNorm2d)]
    numbers = lambda t: t.detach().float().numpy()
    for i, (conv, norm) in enumerate(zip(convs, norms), 1):
        model.get_layer(f"conv{i}").set_weights([numbers(conv.weight).transpose(2, 3, 1, 0)])
        model.get_layer(f"norm{i}").set_weights([numbers(t) for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)])
    model.get_layer("logits").set_weights([numbers(net[-1].weight).T, numbers(net[-1].bias)])
    return model


def learning_rate(config, steps):
    "One cycle, linear up and linear down to nearly zero: step -> learning rate."
    top = max(1, round(config.warmup * steps))
    return lambda step: config.learning_rate * (0.1 + 0.9 * step / top if step < top else max(1e-3, (steps - step) / (steps - top)))


def prepare(config):
    data = getattr(datasets, f"load_{config.data}")()
    train, validation = datasets.stratified_split(data.train.labels, config.validation, config.seed)
    train, validation = train[: config.limit], validation[: config.limit]
    mean, std = channel_statistics(data.train.images[train])
    def augment(images, rng):
        return standardize(random_crop(random_flip(images, rng), rng, config.shift, "reflect"), mean, std)
    batches = Batches(data.train.images[train], data.train.labels[train], config.batch_size, augment, config.seed)
    held_out = standardize(data.train.images[validation], mean, std), data.train.labels[validation]
    return data, batches, held_out, (standardize(data.test.images[: config.limit], mean, std), data.test.labels[: config.limit])


def tensor(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)  # a channels-last view of (N, H, W, C): nothing is copied


@torch.inference_mode()
def predict(net, images, bf16, flip=False, batch_size=500):
    "Logits (N, classes) float32; with `flip` the mean over the image and its mirror."
    net.eval()
    parts = []
    for start in range(0, len(images), batch_size):
        x = tensor(images[start : start + batch_size])
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = net(x).float()
            if flip: y = (y + net(x.flip(3).contiguous(memory_format=torch.channels_last)).float()) / 2
        parts.append(y.numpy())
    return np.concatenate(parts)


def train(config, checkpoints, progress=True):
    "Train or go on; gives the data, the net with its last weights, the history and the validation and test images."
    torch.manual_seed(config.seed)
    data, batches, validation, test = prepare(config)
    bf16 = config.precision == "bfloat16"
    net = six_layer_net(len(data.class_names), config.widths)
    kernels = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD([{"params": kernels, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
                                lr=config.learning_rate, momentum=config.momentum, nesterov=True)
    schedule = learning_rate(config, config.epochs * len(batches))
    folder = CheckpointFolder(checkpoints, config_digest(config))
    history, first = {}, 0
    if found := folder.load():
        arrays, info = found
        net.load_state_dict({name[6:]: torch.from_numpy(a) for name, a in arrays.items() if name.startswith("model/")})
        for i, p in enumerate(kernels + others): optimizer.state[p]["momentum_buffer"] = torch.from_numpy(arrays[f"momentum/{i}"]).clone()
        history, first = info["history"], info["epoch"] + 1
    bar = tqdm(total=config.epochs * len(batches), initial=first * len(batches), unit="step", disable=not progress, mininterval=2)
    for epoch in range(first, config.epochs):
        start, total, right = time.perf_counter(), 0.0, 0
        net.train()
        for step in range(epoch * len(batches), (epoch + 1) * len(batches)):
            for group in optimizer.param_groups: group["lr"] = schedule(step)
            images, labels = batches.batch(step)
            labels = torch.from_numpy(labels)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16): logits = net(tensor(images))
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item(); right += int((logits.argmax(1) == labels).sum())
            if not np.isfinite(total): raise FloatingPointError(f"the loss is {loss.item()} at step {step}; lower the learning rate")
            bar.update()
        predicted = predict(net, validation[0], bf16).argmax(1)
        values = {"loss": total / len(batches), "accuracy": right / len(batches) / config.batch_size,
                  "val_accuracy": float((predicted == validation[1]).mean()), "learning_rate": schedule(step), "seconds": round(time.perf_counter() - start, 2)}
        for name, value in values.items(): history.setdefault(name, []).append(value)
        bar.set_postfix_str(f"epoch {epoch + 1} loss={values['loss']:.3f} val_accuracy={values['val_accuracy']:.4f}")
        arrays = {f"model/{name}": t.numpy() for name, t in net.state_dict().items()}
        arrays |= {f"momentum/{i}": optimizer.state[p]["momentum_buffer"].contiguous().numpy() for i, p in enumerate(kernels + others)}
        folder.save(epoch, arrays, {"history": history})
    bar.close()
    return data, net, history, validation, test


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", choices=["cifar10", "cifar100", "shapes"])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--label-smoothing", type=float)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--shift", type=int)
    parser.add_argument("--limit", type=int, help="use so many images of each part only, to try the script")
    parser.add_argument("--results", default="nbs/results", help="folder of records")
    parser.add_argument("--record", help="name of the record; default: vgg6_<data>")
    parser.add_argument("--checkpoints", default="checkpoints", help="folder of checkpoints; each configuration has its own inside")
    parser.add_argument("--logits", action="store_true", help="write six_layer_<data>.npz as well (always for cifar100)")
    given = parser.parse_args()
    options = {name: getattr(given, name) for name in ("data", "epochs", "seed", "precision", "label_smoothing", "learning_rate", "shift", "limit")}
    config = SixLayerConfig(**{name: value for name, value in options.items() if value is not None})
    if config.data == "shapes": config = replace(config, validation=500, batch_size=min(config.batch_size, 128))
    if config.precision == "auto": config = replace(config, precision=pick_precision("torch"))
    print(config, flush=True)
    data, net, history, validation, test = train(config, Path(given.checkpoints) / f"six_layer_{config.data}_{config_digest(config)}")
    bf16 = config.precision == "bfloat16"
    validation_logits, test_logits = predict(net, validation[0], bf16), predict(net, test[0], bf16)
    top5 = np.argpartition(-test_logits, 5, axis=1)[:, :5]
    metrics = {"test_accuracy": float((test_logits.argmax(1) == test[1]).mean()),
               "test_accuracy_flip": float((predict(net, test[0], bf16, flip=True).argmax(1) == test[1]).mean()),
               "test_accuracy_float32": float((predict(net, test[0], False).argmax(1) == test[1]).mean()),
               "test_top5_accuracy": float((top5 == test[1][:, None]).any(1).mean()),
               "validation_accuracy": float((validation_logits.argmax(1) == validation[1]).mean()),
               "parameters": sum(p.numel() for p in net.parameters()) + sum(b.numel() for n, b in net.named_buffers() if "running" in n)}
    results = Path(given.results)
    write_record(given.record or f"vgg6_{config.data}", "tiny" if config.data == "shapes" else "quick", metrics, asdict(config), config.data, data.digest, config.seed, sum(history["seconds"]),
                 config.precision, history, results, framework="torch", torch_threads=torch.get_num_threads())
    if given.logits or config.data == "cifar100":
        np.savez_compressed(results / f"six_layer_{config.data}.npz", validation_logits=validation_logits.astype(np.float16), test_logits=test_logits.astype(np.float16),
                            validation_labels=validation[1].astype(np.uint8), test_labels=test[1].astype(np.uint8))
    print({name: round(value, 4) for name, value in metrics.items()}, f"{sum(history['seconds']):.0f} s")


if __name__ == "__main__": main()
