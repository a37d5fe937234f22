"""The exact source against a naive loop that reads each neighbour from the tar, decodes, augments and forwards it."""

import tarfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ldlva_dist.dataset.images import augment, encode_image
from ldlva_dist.dataset.preparation import Preparation
from ldlva_dist.dataset.shards import ShardBuilder, crc32
from ldlva_dist.errors import DataError, NeighborServiceError
from ldlva_dist.messages import Neighbors
from ldlva_dist.method.step import StepSettings, TensorNeighbors
from ldlva_dist.models.ldlva import LDLVA
from ldlva_dist.models.resnet import ResNet
from ldlva_dist.stream.quarantine import BadRow
from ldlva_dist.stream.random_access import RandomAccess
from ldlva_dist.stream.superstep import Columns, ImageSettings
from ldlva_dist.training.neighbors.exact_neighbors import NeighborImages, forward_exact
from testing.device_waits import NoWaits

SHARDS, ROWS, SIDE, SIZE, SEED, CLASSES = 3, 20, 40, 32, 7, 5
PER_EPOCH, WARMUP = 10, 2.0
AUGMENTED = ImageSettings(size=SIZE, channels=3, resize="antialias", flip=True, pad=3, erase_probability=0.5)


@dataclass
class Shards:
    """Sixty random images in three tar files, with the columns that the manifest has of them."""

    shard_uris: list[str]
    shard_rows: tuple[int, ...]
    columns: Columns
    asked: int = 0

    def rows(self, ids: NDArray[np.int64]) -> Columns:
        self.asked += len(ids)
        return {name: column[ids] for name, column in self.columns.items()}

    def read(self, sample: int) -> NDArray[np.uint8]:
        """One image, found in its tar by its name."""
        with tarfile.open(self.shard_uris[sample // ROWS]) as tar:
            member = tar.extractfile(f"face-{sample}.jpg")
            assert member is not None
            return AUGMENTED.read(member.read())

    def spoil(self, sample: int) -> None:
        """Change one byte of an image."""
        path = Path(self.shard_uris[sample // ROWS])
        data = bytearray(path.read_bytes())
        data[int(self.columns["offset"][sample]) + 50] ^= 1
        path.write_bytes(data)


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    random = np.random.default_rng(0)
    places, uris = [], []
    for number in range(SHARDS):
        builder = ShardBuilder(number * ROWS)
        for sample in range(number * ROWS, (number + 1) * ROWS):
            image = encode_image(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
            places.append((builder.add(image, {"key": f"face-{sample}"}), len(image), crc32(image)))
        uris.append(str(tmp_path / f"train-{number:06d}.tar"))
        Path(uris[-1]).write_bytes(builder.close())
    columns = {
        name: np.array(column)
        for name, column in zip(("offset", "size", "checksum"), zip(*places, strict=True), strict=True)
    }
    return Shards(uris, (ROWS,) * SHARDS, columns)


def _refuse(row: BadRow) -> None:
    raise DataError(str(row))


def _access(shards: Shards, *, size: int = SIZE, cache_mb: int = 1) -> RandomAccess:
    return RandomAccess(
        shards, preparation=Preparation(size=size, channels=3, resize="antialias"), cache_mb=cache_mb, on_bad=_refuse
    )


def _neighbor_images(access: RandomAccess) -> NeighborImages:
    return NeighborImages(
        access, epoch_of=lambda step: step / PER_EPOCH, seed=SEED, images=AUGMENTED, warmup_epochs=WARMUP, timeout_s=60
    )


def _neighbors(ids_bK: NDArray[np.int64]) -> Neighbors:
    """As a bank without features gives them."""
    shape = ids_bK.shape
    return Neighbors(
        ids=ids_bK,
        va=np.zeros((*shape, 2), np.float32),
        labels=ids_bK % CLASSES,
        probs=np.zeros((*shape, CLASSES), np.float16),
        features=np.zeros((*shape, 0), np.float16),
        versions=np.full(shape, 3),
    )


def _augmented(shards: Shards, sample: int, epoch: int) -> NDArray[np.uint8]:
    return augment(
        [shards.read(sample)],
        seed=SEED,
        epochs_b=np.array([epoch]),
        ids_b=np.array([sample]),
        pad=AUGMENTED.pad,
        flip=True,
        erase_probability=0.0,
    )[0]


def test_images_of_any_ids_are_those_in_the_tars(shards: Shards) -> None:
    ids = np.random.default_rng(1).permutation(SHARDS * ROWS)[:37]
    images, readable = _access(shards).images(ids)
    assert readable.all()
    for sample, image in zip(ids.tolist(), images, strict=True):
        np.testing.assert_array_equal(image, shards.read(sample))


def test_what_was_read_lately_is_not_read_again_and_older_ones_make_room(shards: Shards) -> None:
    access = _access(shards, size=400)  # 1 MiB holds two images of 480,512 bytes
    first = access.images(np.array([0, 1]))[0]
    Path(shards.shard_uris[0]).unlink()
    for image, again in zip(first, access.images(np.array([0, 1]))[0], strict=True):
        np.testing.assert_array_equal(image, again)
    access.images(np.array([20]))
    access.images(np.array([40]))
    with pytest.raises(DataError, match=r"train-000000\.tar"):
        access.images(np.array([1]))


def test_a_damaged_image_is_named_with_its_id_and_place(shards: Shards) -> None:
    shards.spoil(33)
    with pytest.raises(DataError, match=r"^row 33, at byte \d+ of .*train-000001\.tar: .*checksum"):
        _access(shards).images(np.array([2, 33, 59]))


def test_a_tolerated_one_is_told_once_and_counts_as_never_written(shards: Shards) -> None:
    told: list[BadRow] = []
    shards.spoil(33)
    access = RandomAccess(shards, preparation=AUGMENTED, cache_mb=1, on_bad=told.append)
    source, ids = _neighbor_images(access), np.array([[2, 33], [33, 59]])
    for step in (20, 21):
        asked = source.ask(step, ids)
        assert asked
        found = asked.add_to(_neighbors(ids))
        np.testing.assert_array_equal(found.versions, [[step, -1], [-1, step]])
    assert [row.id for row in told] == [33]


def test_neighbors_images_are_the_naive_loops_and_repeat(shards: Shards) -> None:
    ids = np.random.default_rng(2).integers(0, SHARDS * ROWS, (6, 4))
    ids[0, 0] = ids[5, 3]  # one that stands beside two rows
    for step in (20, 39, 20):
        asked = _neighbor_images(_access(shards)).ask(step, ids)
        assert asked
        found = asked.add_to(_neighbors(ids))
        assert found.images is not None
        assert (found.versions == step).all()
        for place in np.ndindex(*ids.shape):
            np.testing.assert_array_equal(found.images[place], _augmented(shards, ids[place], step // PER_EPOCH))  # pyright: ignore[reportArgumentType]


def test_nothing_is_read_in_the_warm_up(shards: Shards) -> None:
    source = _neighbor_images(_access(shards))
    assert source.ask(19, np.array([[1, 2]])) is None
    assert shards.asked == 0
    assert source.ask(20, np.array([[1, 2]]))


def test_a_reader_that_hangs_is_an_error_that_names_the_step(shards: Shards) -> None:
    go_on = threading.Event()
    shards.rows = lambda ids: shards.columns if go_on.wait(60) else {}
    source = NeighborImages(
        _access(shards), epoch_of=float, seed=SEED, images=AUGMENTED, warmup_epochs=0, timeout_s=0.1
    )
    ids = np.array([[1, 2]])
    asked = source.ask(5, ids)
    assert asked
    with pytest.raises(NeighborServiceError, match=r"step 5 were not read in 0\.1 s \(neighbors\.timeout_s\)"):
        asked.add_to(_neighbors(ids))
    go_on.set()


def _model() -> LDLVA:
    torch.manual_seed(0)
    model = LDLVA(ResNet(10, width=4, stem="small"), CLASSES, recipe="official", calibration_hidden=(8, 4))
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -1, 1)  # pyright: ignore[reportArgumentType]
            nn.init.uniform_(part.running_var, 0.5, 2)  # pyright: ignore[reportArgumentType]
    return model.train()


def _tensors(neighbors: Neighbors) -> TensorNeighbors:
    return TensorNeighbors(
        va_BK2=torch.from_numpy(neighbors.va),
        labels_BK=torch.from_numpy(neighbors.labels),
        probs_BKC=torch.from_numpy(neighbors.probs).float(),
        features_BKV=torch.from_numpy(neighbors.features).float(),
        usable_BK=torch.from_numpy(neighbors.versions >= 0),
        logit_BK=torch.zeros(neighbors.ids.shape),
        images=None if neighbors.images is None else torch.from_numpy(neighbors.images),
        readable=neighbors.versions >= 0,
    )


@pytest.mark.parametrize("recipe", ["official", "paper"])
def test_fresh_outputs_are_the_naive_loops_bit_by_bit(shards: Shards, recipe: str) -> None:
    torch.set_num_threads(1)
    ids = np.random.default_rng(3).integers(0, SHARDS * ROWS, (6, 4))
    asked = _neighbor_images(_access(shards)).ask(27, ids)
    assert asked
    neighbors = _tensors(asked.add_to(_neighbors(ids)))
    assert neighbors.readable is not None
    neighbors.usable_BK[2, 1] = neighbors.readable[2, 1] = False
    ours, naive = _model(), _model()
    settings = StepSettings(recipe=recipe, num_classes=CLASSES)
    with NoWaits():
        found = forward_exact(ours, neighbors, settings, ours.feature_width)

    naive.train(recipe == "official")  # METHOD.md, section 3: BatchNorm trains on them, or does not
    usable = [place for place in np.ndindex(*ids.shape) if place != (2, 1)]
    images = np.stack([_augmented(shards, ids[place], 2) for place in usable])  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        output = naive(torch.from_numpy(images))
    for place, features, logits in zip(usable, output.features_BV, output.logits_BC, strict=True):
        assert torch.equal(found.features_BKV[place], features)
        assert torch.equal(found.probs_BKC[place], logits.softmax(dim=0))
    assert not found.probs_BKC[2, 1].any()
    assert not found.features_BKV.requires_grad
    assert ours.training
    for (name, buffer), (_, expected) in zip(ours.named_buffers(), naive.named_buffers(), strict=True):
        assert torch.equal(buffer, expected), name
    moved = any(not torch.equal(a, b) for a, b in zip(ours.buffers(), _model().buffers(), strict=True))
    assert moved == (recipe == "official")


def test_without_images_the_outputs_are_zeros_of_the_right_widths() -> None:
    model = _model()
    neighbors = replace(_tensors(_neighbors(np.arange(6).reshape(2, 3))), images=None)
    found = forward_exact(model, neighbors, StepSettings(recipe="official", num_classes=CLASSES), model.feature_width)
    assert found.probs_BKC.shape == (2, 3, CLASSES)
    assert found.features_BKV.shape == (2, 3, model.feature_width)
    assert not found.features_BKV.any()
