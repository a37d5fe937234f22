"""Claim: the bank loses nothing against the exact source, which reads and forwards every neighbour in every step.

Both sides are the same run but for ``neighbors.source``: the same settings, seed, samples and steps. On drawn faces
each seed has faces, flips and a network of its own (settings of presets.demo); with ``--dataset`` the data set is given
(settings of presets.ferplus) and each seed has a network and an order of its own. Compared are accuracy and KL against
the true distributions (or the raters' votes) of the test split, and the AUROC of wrong training labels by uncertainty.
Rule: a figure's paired differences over the seeds, positive where exact is better, must have a mean of at most two
standard errors. Two standard errors of three seeds are a weak test: read the differences themselves. One seed has no
error; ok then only says that both sides came to their ends.

Two causes of a difference are told apart. ``fresh`` figures are of the same weights with BatchNorm's statistics
estimated anew over the training images: exact counts the neighbours that it forwards in the running statistics which
the test uses. ``outputs_kl``, of the run with the bank, half-way and at the end: KL of the training samples' outputs
against the truth, as the bank holds them and as the network would give them in that step: what their age costs.

``--full`` is the demo's size. With ``--folder`` a benchmark that was interrupted goes on, its runs too.
"""

import statistics
import tempfile
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch.optim.swa_utils import update_bn

from bench.common import cluster, drawn_faces, mean_and_error, report
from ldlva_dist import storage
from ldlva_dist.analysis.scoring import against_columns, score
from ldlva_dist.analysis.trained_run import read_sample_outputs
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.saved_files import checkpoint_uris
from ldlva_dist.config import PlacementConfig, RunConfig
from ldlva_dist.config.presets import demo, ferplus
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import augment
from ldlva_dist.dataset.manifest import DATASET
from ldlva_dist.method.step import forward_neighbors
from ldlva_dist.models.ldlva import LDLVA, normalize
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.reporting.metrics_line import format_line
from ldlva_dist.run import launch
from ldlva_dist.training.evaluate import SplitReader, predict_share
from ldlva_dist.training.inputs import preparation
from ldlva_dist.training.network import build_model

BETTER = {"accuracy": 1, "kl": -1, "auroc": 1, "fresh_accuracy": 1, "fresh_kl": -1}
"""1 where more is better."""
LOG_EVERY_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much to run, and on what."""

    seeds: tuple[int, ...] = (1,)
    dataset: str | None = None
    """A packed data set with votes or truth, and its neighbour graph; None draws faces."""
    train: int = 2000
    """Faces drawn for training."""
    test: int = 1000
    epochs: float = 8.0
    batch_size: int | None = None
    """None: the preset's. A small data set needs small batches, to have steps enough."""
    neighbors: int = 8
    """K."""
    full: bool = False
    """As many faces and epochs as in the demo."""
    folder: str | None = None
    """Where faces and runs stay; None keeps nothing."""


def main(arguments: Arguments) -> None:
    """Train both sides of every seed and print one JSON line."""
    if arguments.full:
        arguments = replace(arguments, train=3000, test=1000, epochs=demo().training.epochs)
    bank, exact, ages = [], [], []
    with tempfile.TemporaryDirectory() as passing, cluster():
        for seed in arguments.seeds:
            config = settings(arguments, f"{arguments.folder or passing}/{seed}", seed)
            for source, found in (("bank", bank), ("exact", exact)):
                run = replace(config, name=source, neighbors=replace(config.neighbors, source=source))
                found.append(judge(run))
                print(seed, source, found[-1], flush=True)
            ages.append(outputs_kl(replace(config, name="bank")))
            print(seed, "KL of outputs as stored and fresh, by step", ages[-1], flush=True)
    pairs = list(zip(bank, exact, strict=True))
    gains = {name: [sign * (e[name] - b[name]) for b, e in pairs] for name, sign in BETTER.items()}
    errors = {name: mean_and_error(values) for name, values in gains.items()}
    report(
        "exact",
        ok=len(pairs) == 1 or all(mean <= 2 * error for mean, error in errors.values()),
        gain_of_exact_mean_and_standard_error=errors,
        gain_of_exact=gains,
        times_as_slow=statistics.mean(b["samples_per_second"] / e["samples_per_second"] for b, e in pairs),
        raw={"bank": bank, "exact": exact},
        outputs_kl=ages,
        arguments=asdict(arguments),
    )


def settings(arguments: Arguments, folder: str, seed: int) -> RunConfig:
    """What both sides share."""
    base, dataset = ferplus() if arguments.dataset else demo(), arguments.dataset or f"{folder}/faces"
    if not storage.exists(storage.join(dataset, DATASET)):
        drawn_faces(folder, train=arguments.train, test=arguments.test, pixels=48, seed=seed)
    return replace(
        base,
        storage_path=f"{folder}/runs",
        data=replace(base.data, dataset=dataset, batch_size=arguments.batch_size or base.data.batch_size),
        neighbors=replace(base.neighbors, num_neighbors=arguments.neighbors),
        training=replace(
            base.training,
            seed=seed,
            epochs=arguments.epochs,
            evaluate_every_epochs=arguments.epochs / 2,
            log_every_steps=LOG_EVERY_STEPS,
        ),
        placement=PlacementConfig(cpus_per_worker=1.0, data_cpus_per_worker=0.5, max_failures=0),
    )


def judge(config: RunConfig) -> dict[str, float]:
    """Train one side, saying how far it is; what its last step is worth, and its speed after the warm-up."""
    uri = config.uri
    done = launch.fit(config, on_metrics=lambda metrics: print(config.name, format_line(metrics), flush=True))
    found, fresh = score(done.checkpoint, Dataset.open(config.data.dataset)), score_fresh(done.checkpoint, config)
    truth = "truth" if "truth" in found else "votes"
    lines = [line for line in read_metrics(uri) if line["epoch"] > config.loss.warmup_epochs]
    return {
        "accuracy": found[truth]["accuracy"],
        "kl": found[truth]["kl"],
        "auroc": found["noise"]["uncertainty"]["auroc"],
        "fresh_accuracy": fresh[truth]["accuracy"],
        "fresh_kl": fresh[truth]["kl"],
        "lookup_wait_share": statistics.mean(line["lookup_wait_share"] for line in lines[1:]),
        "samples_per_second": statistics.harmonic_mean([line["samples_per_second"] for line in lines[1:]]),
    }


def score_fresh(checkpoint: Checkpoint, config: RunConfig) -> dict[str, Any]:
    """The test split's figures with BatchNorm's statistics of all training images."""
    model, images = restored(checkpoint, config), np.array_split(training_images(config, 0), 20)
    update_bn((normalize(torch.from_numpy(part)) for part in images), model.backbone)
    model.eval()
    _, probs_NC = predict_share(lambda x: model(x).logits_BC, reader(config, "test"), device=torch.device("cpu"))
    return against_columns(Dataset.open(config.data.dataset), "test", probs_NC)


def outputs_kl(config: RunConfig) -> dict[int, list[float]]:
    """By step of each checkpoint: KL of the training samples' outputs as they are stored, and fresh."""
    dataset = Dataset.open(config.data.dataset)
    info, found = dataset.info, {}
    for uri in reversed(checkpoint_uris(config.uri)):
        checkpoint, batch_size = Checkpoint.open(uri), config.data.batch_size
        step = checkpoint.facts["step"]
        images, model = training_images(config, step * batch_size // info.num_train), restored(checkpoint, config)
        fresh_NC = np.empty((len(images), len(info.class_names)), dtype=np.float32)
        order = np.random.default_rng(0).permutation(len(images))
        for rows in np.array_split(order, len(images) // batch_size):
            fresh_NC[rows] = forward_neighbors(model, torch.from_numpy(images[rows]))[0].numpy()
        both = read_sample_outputs(checkpoint, info)[1], fresh_NC
        against = [against_columns(dataset, "train", probs_NC) for probs_NC in both]
        found[step] = [(columns.get("truth") or columns["votes"])["kl"] for columns in against]
    return found


def training_images(config: RunConfig, epoch: int) -> NDArray[np.uint8]:
    """All training images as they are augmented in an epoch."""
    train, data = reader(config, "train"), config.data
    ids = np.arange(train.num_rows)
    return augment(
        np.concatenate(list(train.batches(0, len(ids)))),
        epochs_b=np.full(len(ids), epoch),
        ids_b=ids,
        seed=config.training.seed,
        flip=data.flip,
        pad=data.pad,
        erase_probability=0.0,
    )


def restored(checkpoint: Checkpoint, config: RunConfig) -> LDLVA:
    """The network of a checkpoint, in training mode."""
    model = build_model(config, len(Dataset.open(config.data.dataset).info.class_names))
    model.load_state_dict(checkpoint.read_weights())
    return model.train()


def reader(config: RunConfig, split: str) -> SplitReader:
    """The images of a split."""
    data = config.data
    return SplitReader(dataset=Dataset.open(data.dataset), split=split, preparation=preparation(config))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
