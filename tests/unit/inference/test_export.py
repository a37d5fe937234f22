"""A network that is taken away gives what the run's network gives: as a folder, as ONNX, as torch.export."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load, save

from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import decode
from ldlva_dist.dataset.preparation import Preparation
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.inference import description as descriptions
from ldlva_dist.inference import graphs
from ldlva_dist.inference.export import card, export, random_images, real_images
from ldlva_dist.inference.face_model import FaceModel, Portable, load_exported
from ldlva_dist.inference.trained import read_model
from ldlva_dist.models import classifier
from ldlva_dist.training.network import build_model
from ldlva_dist.values.settings import Resize
from testing.clusters.job_scripts import Scripts
from testing.strong_edges import as_camera_jpeg, strong_edges
from testing.synthetic_run import synthetic_run
from testing.tiny_runs import untrained_run

TO_48 = {kind: Preparation(size=48, channels=3, resize=kind) for kind in get_args(Resize)}
PIXELS = 56  # the network takes 48
KINDS = (True, True), (True, False), (False, False), (False, True)
"""Of pictures of hard edges: black and white or not, colour stored at half the resolution or not."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return synthetic_run(tmp_path_factory.mktemp("set"), rows=60, pool=60, k=4, pixels=PIXELS).dataset.uri


@pytest.fixture(scope="module")
def run(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return untrained_run(dataset, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def exported(run: str, dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("away") / "best"
    files = export(read_model(run), str(folder), ["onnx", "pt2"], real_images(Dataset.open(dataset), 3))
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)
    return folder


def images_of(dataset: str) -> np.ndarray:
    return np.stack(real_images(Dataset.open(dataset), 3))


def test_the_exported_folder_gives_what_the_runs_network_gives(run: str, exported: Path, dataset: str) -> None:
    checkpoint = Checkpoint.newest(run)
    assert checkpoint is not None
    whole = build_model(checkpoint.config, 7)
    whole.load_state_dict(checkpoint.read_weights())
    images = np.stack([TO_48["antialias"].fit(image) for image in images_of(dataset)])
    with torch.inference_mode():
        expected = whole.eval()(torch.from_numpy(images))
    answers = load_exported(str(exported))(images)
    np.testing.assert_array_equal(answers.probs_nC, expected.logits_BC.softmax(dim=1).numpy())
    np.testing.assert_array_equal(answers.features_nV, expected.features_BV.numpy())
    assert np.ptp(answers.probs_nC, axis=0).max() > 0.01  # the network tells the images apart
    probs = answers.probs_nC.astype(np.float64)
    np.testing.assert_allclose(answers.entropy_n, -(probs * np.log(probs)).sum(axis=1), rtol=1e-5)


def test_an_exported_folder_loads_without_ray_and_deepspeed(exported: Path) -> None:
    code = (
        "import sys\nfrom ldlva_dist.inference.face_model import load_exported\n"
        f"model = load_exported({str(exported)!r})\n"
        "heavy = {'ray', 'deepspeed', 'faiss'} & set(sys.modules)\nassert not heavy, heavy\n"
        "print(model.description.class_names[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Neutral\n"


@pytest.mark.parametrize("resize", ["antialias", "reference"])
def test_onnx_and_pt2_take_any_number_of_images_of_any_size(
    resize: Resize, run: str, dataset: str, tmp_path: Path
) -> None:
    trained = read_model(run)
    assert trained.description.resize == "antialias"
    model = Portable(description=replace(trained.description, resize=resize), weights=trained.weights)
    export(model, str(tmp_path / "away"), ["onnx", "pt2"], real_images(Dataset.open(dataset), 3))
    graphs_of = _graphs(tmp_path / "away")
    model = load_exported(str(tmp_path / "away"))
    assert model.description.resize == resize
    noise = np.random.default_rng(3).integers(0, 256, (5, 91, 37, 3), dtype=np.uint8)
    for images in (images_of(dataset)[:5], images_of(dataset)[:1], noise, noise[:1]):
        expected = model(np.stack([model.preparation.fit(image) for image in images]))
        for graph in graphs_of:
            probs, features = graph(images)
            np.testing.assert_allclose(probs, expected.probs_nC, atol=1e-4 if resize == "reference" else 2e-2)
            np.testing.assert_allclose(features, expected.features_nV, atol=1e-3 if resize == "reference" else 2e-2)
    for sides, (grey, halved_colour) in product(((48, 48), (96, 96), (203, 131), (400, 500)), KINDS):
        data = as_camera_jpeg(strong_edges(*sides, grey=grey), halved_colour=halved_colour)
        small, whole = model.prepare(data), decode(data, 3)
        for graph in graphs_of:
            assert np.abs(graph(whole[None])[0] - model(small[None]).probs_nC).mean() <= 0.02


def _graphs(folder: Path) -> list[Callable[[np.ndarray], list[np.ndarray]]]:
    """ONNX and torch.export of a folder; both say how images are prepared."""
    about = json.loads((folder / "model.json").read_text())["preprocessing"]
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == about
    extra = {"preprocessing.json": ""}
    module = torch.export.load(folder / "model.pt2", extra_files=extra).module()
    assert json.loads(extra["preprocessing.json"]) == about
    return [
        lambda images: [np.asarray(out) for out in session.run(["probabilities", "features"], {"images": images})],
        lambda images: [out.detach().numpy() for out in module(torch.from_numpy(images))],
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("side", "sides", "missed"),
    [
        (48, (48, 48), None),
        (48, (96, 96), 10.3),
        (48, (203, 131), 3.8),
        (48, (400, 500), None),
        (112, (224, 224), 4.9),
        (112, (448, 448), None),
    ],
)
def test_pictures_of_edges_alone_stay_within_two_levels_but_for_halved_colour_as_the_docs_admit(
    side: int, sides: tuple[int, int], missed: float | None, seed: int
) -> None:
    outside = Preparation(size=side, channels=3, resize="antialias")
    for grey, halved_colour in KINDS:
        data = as_camera_jpeg(strong_edges(*sides, grey=grey, seed=seed), halved_colour=halved_colour)
        inside = classifier.resize_batch(torch.from_numpy(decode(data, 3)[None]), side, "antialias")[0].numpy()
        is_missed = missed and halved_colour and not grey
        assert np.abs(outside.read(data) - inside).mean() <= (missed if is_missed else 2)


@pytest.mark.parametrize("shape", [(96, 96, 3), (37, 91, 3), (1, 1, 3), (200, 150, 1), (48, 48, 3), (401, 390, 3)])
def test_resizing_inside_a_graph_is_that_of_evaluation(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for kind, share, most in (("reference", 1e-4, 1), ("antialias", 0.5, 2)):
        inside = classifier.resize_batch(torch.from_numpy(image[None]), 48, kind)[0].numpy()
        outside = TO_48[kind].fit(image)
        assert (inside != outside).mean() <= share  # ties of rounding; Pillow rounds on the way
        assert np.abs(inside - outside).max() <= most


def test_a_graph_that_does_not_give_what_torch_gives_is_refused_and_nothing_is_written(
    run: str, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_model(run).build()
    images = random_images(model.description)

    def off(batch: np.ndarray) -> list[np.ndarray]:
        answers = model(np.stack([model.preparation.fit(image) for image in batch]))
        return [answers.probs_nC + np.float32(2e-4), answers.features_nV]

    with pytest.raises(DataError, match=r"must give what torch gives within 0\.0001, it differs by 0\.0002"):
        graphs.check_graph(model, images, off, "ONNX")
    monkeypatch.setattr(graphs, "TOLERANCE", -1.0)
    with pytest.raises(DataError, match=r"torch\.export must give"):
        export(read_model(run), str(tmp_path / "away"), ["pt2"], real_images(Dataset.open(dataset), 3))
    assert not (tmp_path / "away").exists()


def test_the_card_says_classes_data_training_figures_and_limits(run: str, exported: Path, dataset: str) -> None:
    written = (exported / "MODEL.md").read_text()
    info = descriptions.parse_description((exported / "model.json").read_bytes(), "model.json").data
    for text in ("0. Neutral", "6. Anger", "48 x 48, blocks of 8, 4 or 2", "(x - 127.5) / 127.5", info["content_hash"]):
        assert text in written
    for text in ("| loss.recipe | official |", "| neighbors.num_neighbors | 4 |", "0.625", "was not evaluated", "onnx"):
        assert text in written
    assert "An expression is not an emotion" in written
    assert "| orientation | upright" in written


def test_figures_are_those_of_the_exported_checkpoint_and_of_no_other(run: str, tmp_path: Path) -> None:
    place = Path(run) / "evaluation.json"
    judged = {"accuracy": 0.75, "mean_class_accuracy": 0.7, "macro_f1": 0.69, "ece": 0.05}
    checkpoint = Checkpoint.newest(run)
    assert checkpoint is not None
    found = {
        "checkpoint": checkpoint.uri,
        "steps": 20,
        "weights_crc32": checkpoint.weights_crc32,
        "samples": 60,
        "split": "test",
        "dataset": "a|b<i>",
    }
    found |= {"version": "1", "trained_version": "1", "given": judged, "truth": {**judged, "kl": 0.321}}
    try:
        place.write_text(json.dumps({**found, "weights_crc32": 7}))
        assert "evaluation" not in read_model(run).description.figures
        place.write_text(json.dumps(found))
        model = read_model(run)
    finally:
        place.unlink(missing_ok=True)
    assert model.description.figures["evaluation"] == {**found, "checkpoint": "step-00000020"}
    export(model, str(tmp_path / "away"), [], [])
    written = (tmp_path / "away" / "MODEL.md").read_text()
    assert "| true distributions | 0.750 | 0.700 | 0.690 | 0.050 | 0.321 |" in written
    assert "of `abi`" in written  # no marks of Markdown or HTML from outside


def test_the_card_of_a_baseline_says_that_it_is_one(run: str) -> None:
    facts = read_model(run).description
    training = {**facts.training, "loss": {**facts.training["loss"], "recipe": "ce"}}
    text = card(replace(facts, training=training))
    assert "plain cross-entropy" in text
    assert "neighbours say" not in text


def test_an_exported_folder_can_be_exported_again(exported: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    export(read_model(str(exported)), str(again), [], [])
    assert (again / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()
    with pytest.raises(SettingError, match="--output must not exist"):
        export(read_model(str(exported)), str(again), [], [])


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _later_format(folder: Path) -> None:
    path = folder / "model.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))


def _no_json(folder: Path) -> None:
    (folder / "model.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_cut, "model.safetensors is damaged: it does not have the checksum"),
        (_later_format, "has format_version 2, this program reads 1"),
        (_no_json, "model.json is damaged"),
    ],
)
def test_a_damaged_folder_is_refused(run: str, tmp_path: Path, damage: object, sentence: str) -> None:
    export(read_model(run), str(tmp_path / "away"), [], [])
    assert callable(damage)
    damage(tmp_path / "away")
    with pytest.raises(DataError, match=sentence):
        load_exported(str(tmp_path / "away"))


def test_weights_of_another_network_are_refused(run: str) -> None:
    model = read_model(run)
    weights = load(model.weights)
    weights["classifier.bias"] = torch.zeros(8)
    with pytest.raises(
        DataError, match=r"width 4\) does not hold the weights of its network: classifier.bias \[8\] for \[7\]"
    ):
        Portable(description=model.description, weights=save(weights)).build()


def test_what_is_no_model_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="the model must be a run with a finished checkpoint"):
        read_model(str(tmp_path))


def test_the_job_writes_the_folder(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = Scripts(capsys, monkeypatch)
    done = scripts.run("export", "--run", run, "--output", str(tmp_path / "away"), "--pt2")
    assert done.code == 0, done.stderr
    assert "MODEL.md has no figures of a test split" in done.stdout
    assert "away/model.pt2" in done.stdout
    assert isinstance(load_exported(str(tmp_path / "away")), FaceModel)
    again = scripts.run("export", "--run", run, "--output", str(tmp_path / "away"))
    assert again.code == 2
    assert "error: --output must not exist" in again.stderr
