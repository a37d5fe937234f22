"""What the experiments compare, and what becomes of their figures."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, ImageColor

from ldlva_dist.config import RunConfig
from ldlva_dist.config.presets import demo
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.errors import SettingError
from ldlva_dist.experiments import cells
from ldlva_dist.experiments.arms import SIDES, Arm, ablation_arms, noise_arms
from ldlva_dist.experiments.plots import COLORS, draw_ablation, draw_noise
from ldlva_dist.experiments.protocol import Protocol, Row, _cell, compare_arms
from ldlva_dist.experiments.tables import ablation_markdown, means, noise_markdown, write_tables
from ldlva_dist.index.graph import build_graph
from testing.toy_dataset import toy_dataset

BASE = demo()


def differences(config: RunConfig) -> dict[str, object]:
    """The settings that are not those of BASE."""
    found = {}
    for section in ("data", "model", "loss", "index", "neighbors", "bank", "uncertainty", "optim", "training"):
        ours, theirs = getattr(config, section), getattr(BASE, section)
        names = [name for name in vars(ours) if getattr(ours, name) != getattr(theirs, name)]
        found |= {f"{section}.{name}": getattr(ours, name) for name in names}
    return found


def test_every_side_differs_in_what_its_name_says_and_in_nothing_else() -> None:
    arms = {arm.group: arm for arm in noise_arms(BASE, [0.3], list(SIDES), label_smoothing=0.2)}
    assert {name: differences(arm.config) for name, arm in arms.items()} == {
        "cross-entropy": {"loss.recipe": "ce"},
        "label smoothing": {"loss.recipe": "ce", "loss.label_smoothing": 0.2},
        "LDLVA": {},
        "LDLVA (paper)": {"loss.recipe": "paper"},
        "label posterior": {"loss.recipe": "posterior"},
        "ELR": {"loss.recipe": "elr"},
        "SOP": {"loss.recipe": "sop"},
        "GCE": {"loss.recipe": "gce"},
        "SCE": {"loss.recipe": "sce"},
        "mixup": {"loss.recipe": "mixup"},
        "no uncertainty": {"uncertainty.lr": 0.0},
        "no calibration": {"loss.calibration": False},
        "no discriminative loss": {"loss.gamma": 0.0},
        "shuffled VA": {},
    }
    assert [name for name, arm in arms.items() if arm.shuffle_va] == ["shuffled VA"]
    assert {arm.noise for arm in arms.values()} == {"symmetric:0.3"}


def test_an_ablation_changes_one_setting_at_a_time() -> None:
    axes = {"K": (4,), "delta": (0.25,), "gamma": (0.1,), "initial uncertainty": (0.75,)}
    arms = ablation_arms(BASE, axes, level=0.2)
    assert [differences(arm.config) for arm in arms] == [
        {"neighbors.num_neighbors": 4},
        {"loss.kernel_width": 0.25},
        {"loss.gamma": 0.1},
        {"uncertainty.initial_logit": pytest.approx(math.log(3))},
    ]
    assert {arm.noise for arm in arms} == {"symmetric:0.2"}


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: noise_arms(BASE, [0.1], ["LDLVA", "nobody"], 0.1), "--sides must be of cross-entropy, label"),
        (lambda: noise_arms(BASE, [], ["LDLVA"], 0.1), "no level"),
        (lambda: noise_arms(BASE, [1.0], ["LDLVA"], 0.1), r"--levels must be in \[0, 1\), got 1"),
        (lambda: ablation_arms(BASE, {"K": (2.5,)}, 0.3), "K must be a whole number, got 2.5"),
        (lambda: ablation_arms(BASE, {"initial uncertainty": (1.0,)}, 0.3), r"must be in \(0, 1\), got 1"),
        (lambda: ablation_arms(BASE, {"K": ()}, 0.3), "at least one value"),
        (lambda: ablation_arms(BASE, {"K": (4,)}, 1.5), r"--level must be in \[0, 1\), got 1.5"),
        (lambda: ablation_arms(replace(BASE, loss=replace(BASE.loss, recipe="ce")), {}, 0.3), "got ce"),
        (lambda: Protocol(dataset="d", output="o", seeds=0), "--seeds and --max-concurrent must be >= 1, got 0"),
        (lambda: Protocol(dataset="d", output="o", learning_rates=(0.1, 0.0)), "must be > 0, got 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(build: object, sentence: str) -> None:
    assert callable(build)
    with pytest.raises(SettingError, match=sentence):
        build()


def test_a_runs_name_is_of_what_it_learns_from_not_of_where_it_runs() -> None:
    name = cells.name_run(BASE, "hash").name
    assert name.startswith("official-")
    assert name.endswith("-seed-0")
    elsewhere = replace(BASE, name="x", storage_path="y", placement=replace(BASE.placement, num_workers=1))
    elsewhere = replace(elsewhere, data=replace(BASE.data, dataset="another place of the same data"))
    assert cells.name_run(elsewhere, "hash").name == name
    assert cells.name_run(BASE, "hash of other data").name != name
    for other in (
        replace(BASE, training=replace(BASE.training, seed=1)),
        replace(BASE, loss=replace(BASE.loss, gamma=0.5)),
    ):
        assert cells.name_run(other, "hash").name != name


def test_the_truth_is_preferred_to_votes_and_votes_to_given_labels() -> None:
    evaluation = {name: {"accuracy": value} for name, value in (("given", 0.1), ("votes", 0.2), ("truth", 0.3))}
    assert cells.figures(evaluation) == {"accuracy": 0.3}
    evaluation.pop("truth")
    assert cells.figures(evaluation) == {"accuracy": 0.2}
    noise = {"wrong_share": 0.5, "uncertainty": {"auroc": 0.9, "average_precision": None}, "bayes": {"auroc": 1.0}}
    given = {"accuracy": 0.1, "mean_class_accuracy": 0.2, "kl": None}
    assert cells.figures({"given": given, "noise": noise}) == {
        "accuracy": 0.1,
        "mean_class_accuracy": 0.2,
        "auroc_uncertainty": 0.9,
    }


def finish(arm: Arm, seed: int, lr: float, protocol: Protocol, figures: dict[str, float]) -> str:
    """Leave a run behind as if it had been trained; its name."""
    config = _cell(arm, seed, lr, protocol)
    folder = Path(config.storage_path) / config.name
    folder.mkdir(parents=True)
    (folder / "cell.json").write_text(json.dumps(figures))
    return config.name


def test_every_arm_takes_the_rate_that_is_best_on_the_holdout_and_is_judged_by_other_seeds(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path)
    protocol = Protocol(dataset=dataset, output=str(tmp_path / "out"), seeds=2, learning_rates=(0.1, 0.2))
    arms = noise_arms(BASE, [0.0, 0.3], ["cross-entropy"], label_smoothing=0.1)
    for arm, best in zip(arms, (0.2, 0.1), strict=True):
        for lr in protocol.learning_rates:
            # What it is worth on the test split is the other way round, and must not matter.
            finish(arm, 0, lr, protocol, {"holdout_accuracy": 0.9 if lr == best else 0.4, "accuracy": 1 - lr})
        for seed in (1, 2):
            finish(arm, seed, best, protocol, {"accuracy": 0.5 + best + seed / 10})
    [*_, found] = compare_arms(arms, protocol, lambda line: None)
    assert [(row.arm.x, row.seed, row.config.optim.lr) for row in found] == [
        (0.0, 1, 0.2),
        (0.3, 1, 0.1),
        (0.0, 2, 0.2),
        (0.3, 2, 0.1),
    ]
    assert [row.figures["accuracy"] for row in found] == pytest.approx([0.8, 0.7, 0.9, 0.8])
    flips = [Path(row.config.data.dataset).name for row in found]
    assert flips == ["set", "symmetric-0.3-seed-1", "set", "symmetric-0.3-seed-2"]


def test_arms_with_the_same_settings_share_one_run_and_a_graph_that_is_too_small_is_said(tmp_path: Path) -> None:
    dataset = toy_dataset(tmp_path)
    build_graph(Dataset.open(dataset), 8)
    protocol = Protocol(dataset=dataset, output=str(tmp_path / "out"), seeds=1)
    base = replace(BASE, neighbors=replace(BASE.neighbors, num_neighbors=8))
    arms = ablation_arms(base, {"K": (8, 8), "gamma": (base.loss.gamma,)}, level=0.3)
    finish(arms[0], 1, base.optim.lr, protocol, {"accuracy": 0.5})
    [*_, found] = compare_arms(arms, protocol, lambda line: None)
    assert [row.arm.group for row in found] == ["K", "gamma"]
    assert len({row.config.name for row in found}) == 1
    with pytest.raises(SettingError, match=r"must be <= the K of the neighbour graph \(8\), got 9"):
        list(compare_arms(ablation_arms(base, {"K": (8, 9)}, level=0.3), protocol, lambda line: None))


def rows(groups: Sequence[str], levels: Sequence[float], seeds: int) -> list[Row]:
    """Accuracies a + 0.1 s of seeds s = 1, 2, ...; all but the first group have an AUROC."""
    found = []
    for seed in range(1, seeds + 1):
        for place, group in enumerate(groups):
            for level in levels:
                figures = {"accuracy": 0.5 - level + 0.1 * seed + 0.01 * place, "mean_class_accuracy": 0.25, "kl": 1.0}
                figures |= {"auroc_uncertainty": 0.9} if place else {}
                found.append(Row(arm=Arm(group=group, x=level, config=BASE), seed=seed, config=BASE, figures=figures))
    return found


def test_a_table_has_mean_and_standard_error_of_each_side_at_each_level() -> None:
    """A gain is taken seed by seed: what a seed is lucky with counts in both sides, and not in the gain's error."""
    text = noise_markdown(means(rows(["cross-entropy", "LDLVA"], [0.0, 0.3], seeds=3)))
    assert text.splitlines() == [
        "| accuracy | 0 % flipped | 30 % flipped |",
        "| --- | ---: | ---: |",
        "| cross-entropy | 0.700 ± 0.058 | 0.400 ± 0.058 |",
        "| LDLVA | 0.710 ± 0.058 | 0.410 ± 0.058 |",
        "",
        "| accuracy gain over cross-entropy, seed by seed | 0 % flipped | 30 % flipped |",
        "| --- | ---: | ---: |",
        "| LDLVA | 0.010 ± 0.000 | 0.010 ± 0.000 |",
        "",
        "| mean recall of the classes | 0 % flipped | 30 % flipped |",
        "| --- | ---: | ---: |",
        "| cross-entropy | 0.250 ± 0.000 | 0.250 ± 0.000 |",
        "| LDLVA | 0.250 ± 0.000 | 0.250 ± 0.000 |",
        "",
        "| KL divergence (less is better) | 0 % flipped | 30 % flipped |",
        "| --- | ---: | ---: |",
        "| cross-entropy | 1.000 ± 0.000 | 1.000 ± 0.000 |",
        "| LDLVA | 1.000 ± 0.000 | 1.000 ± 0.000 |",
        "",
        "| AUROC of wrong labels by uncertainty | 0 % flipped | 30 % flipped |",
        "| --- | ---: | ---: |",
        "| LDLVA | 0.900 ± 0.000 | 0.900 ± 0.000 |",
        "",
        "Mean ± standard error of 3 seeds.",
    ]


def test_a_single_seed_has_no_standard_error_and_seeds_that_are_not_done_are_said() -> None:
    three = rows(["K"], [4.0, 8.0], seeds=2)[:3]
    lines = ablation_markdown(means(three)).splitlines()
    assert lines[2].startswith("| K = 4 | -3.350 ± 0.050 |")
    assert lines[3].startswith("| K = 8 | -7.400 |")
    assert lines[-1] == "Mean ± standard error of 1 to 2 seeds."


def test_tables_come_back_as_parquet_csv_and_json(tmp_path: Path) -> None:
    found = rows(["cross-entropy", "LDLVA"], [0.0, 0.3], seeds=2)
    write_tables(str(tmp_path), "noise", found, noise_markdown(means(found)))
    expected = {(mean.group, mean.x, mean.figure): mean.mean for mean in means(found)}
    for table in (pd.read_parquet(tmp_path / "noise.parquet"), pd.read_csv(tmp_path / "noise.csv")):
        lines = table.to_dict("records")
        there = {(line["group"], line["x"], line["figure"]): line["mean"] for line in lines}
        assert there == pytest.approx(expected)
    runs = pd.read_csv(tmp_path / "noise-runs.csv").to_dict("records")
    assert [run["seed"] for run in runs] == [1] * 4 + [2] * 4
    assert all(math.isnan(run["auroc_uncertainty"]) for run in runs if run["group"] == "cross-entropy")
    content = json.loads((tmp_path / "noise.json").read_text())
    assert len(content["means"]) == len(expected)
    assert content["runs"][0]["accuracy"] == pytest.approx(0.6)
    assert (tmp_path / "noise.md").read_text().startswith("| accuracy |")


def test_plots_are_drawn_as_pdf_and_png_with_every_sides_colour(tmp_path: Path) -> None:
    found = means(rows(list(SIDES), [0.0, 0.1, 0.3], seeds=2))
    assert draw_noise(found, str(tmp_path), "noise") == [f"{tmp_path}/noise.png", f"{tmp_path}/noise.pdf"]
    assert (tmp_path / "noise.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(tmp_path / "noise.png") as picture:
        there = {color for _, color in picture.convert("RGB").getcolors(1 << 24) or ()}
    assert {ImageColor.getrgb(color) for color in COLORS} <= there
    draw_ablation(means(rows(["K", "gamma"], [1.0, 8.0], seeds=1)), str(tmp_path), "ablation")
    assert (tmp_path / "ablation.pdf").read_bytes().startswith(b"%PDF")


def test_label_posteriors_read_at_least_as_many_labels_as_they_need() -> None:
    few = replace(BASE, neighbors=replace(BASE.neighbors, num_neighbors=8))
    assert SIDES["label posterior"](few).neighbors.num_neighbors == 32
