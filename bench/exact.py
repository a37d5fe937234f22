"""Claim: the bank loses nothing against the exact source, which reads and forwards every neighbour in every step.

Both sides are the same run but for ``neighbors.source``: the same settings, seed, samples and steps. On drawn faces
each seed has faces, flips and a network of its own (settings of presets.demo); with ``--dataset`` the data set is given
(settings of presets.ferplus) and each seed has a network and an order of its own. Compared are accuracy and KL against
the true distributions (or the raters' votes) of the test split, and the AUROC of wrong training labels by uncertainty.
Rule: a figure's paired differences over the seeds, positive where exact is better, must have a mean of at most two
standard errors. Two standard errors of three seeds are a weak test: read the differences themselves. One seed has no
error; ok then only says that both sides came to their ends.
"""

import statistics
import tempfile
from dataclasses import asdict, dataclass, replace

import tyro
from _common import cluster, drawn_faces, mean_and_error, report

from ldlva_dist import launch
from ldlva_dist.config import PlacementConfig, RunConfig
from ldlva_dist.presets import demo, ferplus
from ldlva_dist.reporting.metrics_log import read_metrics
from ldlva_dist.scoring import score

BETTER = {"accuracy": 1, "kl": -1, "auroc": 1}
"""1 where more is better."""


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


def main(arguments: Arguments) -> None:
    """Train both sides of every seed and print one JSON line."""
    bank, exact = [], []
    with tempfile.TemporaryDirectory() as folder, cluster():
        for seed in arguments.seeds:
            config = settings(arguments, f"{folder}/{seed}", seed)
            for source, found in (("bank", bank), ("exact", exact)):
                run = replace(config, name=source, neighbors=replace(config.neighbors, source=source))
                found.append(judge(run))
                print(seed, source, found[-1], flush=True)
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
        arguments=asdict(arguments),
    )


def settings(arguments: Arguments, folder: str, seed: int) -> RunConfig:
    """What both sides share."""
    base = ferplus() if arguments.dataset else demo()
    dataset = arguments.dataset or drawn_faces(folder, train=arguments.train, test=arguments.test, pixels=48, seed=seed)
    return replace(
        base,
        storage_path=f"{folder}/runs",
        data=replace(base.data, dataset=dataset, batch_size=arguments.batch_size or base.data.batch_size),
        neighbors=replace(base.neighbors, num_neighbors=arguments.neighbors),
        training=replace(base.training, seed=seed, epochs=arguments.epochs, evaluate_every_epochs=arguments.epochs),
        placement=PlacementConfig(cpus_per_worker=1.0, data_cpus_per_worker=0.5, max_failures=0),
    )


def judge(config: RunConfig) -> dict[str, float]:
    """Train one side; what its last step is worth, and its speed after the warm-up."""
    done = launch.fit(config)
    found = score(done.checkpoint_uri, config.data.dataset)
    truth = found.get("truth") or found["votes"]
    lines = [line for line in read_metrics(done.run_uri) if line["epoch"] > config.loss.warmup_epochs]
    return {
        "accuracy": truth["accuracy"],
        "kl": truth["kl"],
        "auroc": found["noise"]["uncertainty"]["auroc"],
        "lookup_wait_share": statistics.mean(line["lookup_wait_share"] for line in lines[1:]),
        "samples_per_second": statistics.harmonic_mean([line["samples_per_second"] for line in lines[1:]]),
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
