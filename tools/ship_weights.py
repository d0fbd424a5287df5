"""Put the trained ELU network into the package, with a card made from its record: `python tools/ship_weights.py FILE`.

FILE is what the long training left in its folder, `weights.safetensors` or `elu_cifar100.keras`. Writes
hierlearn/weights/elu_cifar100.safetensors (float16, at most 6 MB) and elu_cifar100.md. Without FILE: the card alone.
"""
import hashlib
import sys
import tempfile
from pathlib import Path

from common import PACKAGE, RESULTS

from hierlearn.records import read_record

NAME, RECORD, PROFILE = "elu_cifar100", "elu_cifar100_train", "quick"
WEIGHTS = PACKAGE / "weights" / f"{NAME}.safetensors"
# of the settings of the training, those that build the network
NETWORK = ("stacks", "width", "activation", "activation_per", "batch_norm", "dropout")

CARD = """# ELU network for CIFAR-100

The weights in `{file}` belong to the {layers}-layer ELU network of Clevert, Unterthiner and Hochreiter (2016), at
{width:g} times its width and without batch normalisation: {parameters:,} parameters, stored as float16.

```python
from hierlearn.elu_cifar100 import load_pretrained
model = load_pretrained()  # (N, 32, 32, 3) whitened -> (N, 100) logits
```

| | |
|---|---|
| Made by | this project, commit `{commit}`, {date} |
| Licence | Apache-2.0, as the package |
| Record | `nbs/results/{name}.{profile}.json`, SHA-256 `{digest}` |
| Data | CIFAR-100 (Krizhevsky, 2009): {images:,} training images, {validation:,} for validation, 10,000 for the test |
| Input | global contrast normalisation, then ZCA with epsilon {epsilon:g} fitted on the training images; \
`hierlearn.experiments.elu_cifar100.prepare` does both |
| Training | {epochs} epochs of batches of {batch_size}, seed {seed}, {precision}, {minutes:.0f} minutes on {threads} \
thread(s) of {processor} |
| Test accuracy, 100 classes | {test_accuracy:.4f} |
| Test accuracy, 20 superclasses | {coarse:.4f} |
| Validation accuracy | {validation_accuracy:.4f} (the best epoch's, which was chosen by it) |

It is made for teaching: to look at what the layers of such a network do, and for exercises that need a trained one.
It knows the 100 classes of CIFAR-100 in pictures of 32 x 32 pixels and nothing else, and it answers with one of them
for any picture. Do not use it where a wrong answer could do harm. The file holds no picture of the data set.
"""


def digest(path): return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def card(record, path):
    "The model card: every number is the record's."
    from hierlearn.elu_cifar100 import count_parameters, parse_stacks, widen
    header, metrics = record.header, record.metrics
    config = header["config"]
    coarse = next(metrics[n] for n in metrics if n.startswith("coarse_accuracy") and isinstance(metrics[n], float))
    return CARD.format(file=WEIGHTS.name, name=RECORD, profile=PROFILE, digest=digest(path), coarse=coarse,
        layers=sum(map(len, parse_stacks(config["stacks"]))) - 1, images=config["train_images"] or 50_000
        - config["validation"], epsilon=config["zca_epsilon"], minutes=(metrics.get("seconds") or header["seconds"])/60,
        **{n: config[n] for n in ("width", "validation", "epochs", "batch_size")},
        **{n: header[n] for n in ("commit", "date", "seed", "precision", "threads", "processor")},
        parameters=count_parameters(widen(config["stacks"], config["width"])),
        **{n: metrics[n] for n in ("test_accuracy", "validation_accuracy")})


def ship(source, record, path):
    "The weights of the training with notes that say what they are."
    import keras

    from hierlearn.elu_cifar100 import build_elu_cnn
    from hierlearn.models import load_weights, save_weights
    config = record.header["config"]
    per = "layer" if config["schedule"] == "paper" else "stack"
    network = {name: config[name] for name in NETWORK} | {"num_classes": 100, "dropout_per": per}
    model = build_elu_cnn(**network)
    if Path(source).suffix == ".keras":
        model.set_weights(keras.models.load_model(source, compile=False, safe_mode=True).get_weights())
    else: load_weights(source, model)
    about = dict(network=network, record=f"{RECORD}.{PROFILE}", record_sha256=digest(path), data=record.header["data"],
        data_sha256=record.header["data_sha256"], zca_epsilon=config["zca_epsilon"], validation=config["validation"],
        test_accuracy=record.metrics["test_accuracy"], licence="Apache-2.0")
    with tempfile.TemporaryDirectory() as folder:  # too large a file must not replace a good one
        size = save_weights(model, Path(folder)/"weights", **about).stat().st_size
        if size > 6_000_000: sys.exit(f"{size/1e6:.1f} MB of weights; 6 MB are allowed: train a narrower network")
    return save_weights(model, WEIGHTS, **about)


if __name__ == "__main__":
    record, path = read_record(RECORD, PROFILE, folder=RESULTS), RESULTS/f"{RECORD}.{PROFILE}.json"
    if sys.argv[1:]:
        found = ship(sys.argv[1], record, path)
        print(f"{found.name}: {found.stat().st_size/1e6:.2f} MB")
    WEIGHTS.parent.mkdir(exist_ok=True)
    WEIGHTS.with_suffix(".md").write_text(card(record, path), encoding="utf-8")
