"""The layouts in which people hold the known sets, drawn small: for tests of packing and of ``make_shards guess``."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ldlva_dist.dataset.images import encode_image
from ldlva_dist.packing.classes.known_sets import FER2013

REFERENCE = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger")
YOLO_NAMES = ("Anger", "Contempt", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
VOTE_HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


@dataclass(frozen=True)
class Layout:
    """One way in which a set lies on a disk."""

    draw: Callable[[Path], None]
    arguments: str
    """What follows ``make_shards.py``, with ``{root}`` for the folder, without ``--output``."""
    labels: dict[str, dict[str, str]]
    """Class of some keys of each split."""
    rows: tuple[int, int, int]
    """Training, holdout and test rows, with ``--holdout 0`` where the set brings none."""


class Painter:
    """Draws pictures that differ, the same ones every time."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng(7)

    def pixels(self, side: int = 16, channels: int = 3) -> np.ndarray:
        """[side, side, channels] noise."""
        return self._generator.integers(0, 256, (side, side, channels), dtype=np.uint8)

    def jpeg(self, path: Path, side: int = 16) -> None:
        """A JPEG file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(self.pixels(side)))

    def tiff(self, path: Path) -> None:
        """A grey TIFF file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.pixels(16, 1)[:, :, 0]).save(path)


def write(path: Path, lines: Sequence[str]) -> None:
    """A text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def pixel_rows(classes: int, painter: Painter) -> Iterator[str]:
    """Lines of a table of pixels: three of each class for training, one for each other usage."""
    for usage, count in (("Training", 3), ("PublicTest", 1), ("PrivateTest", 1)):
        for number in range(classes):
            for _ in range(count):
                yield f"{number},{' '.join(map(str, painter.pixels(48, 1).ravel().tolist()))},{usage}"


def fer2013(root: Path) -> None:
    """The CSV of Kaggle, and the votes of FER+ in another order."""
    rows = list(pixel_rows(7, Painter()))
    write(root / "fer2013.csv", ["emotion,pixels,Usage", *rows])
    votes = [
        f"{row.rpartition(',')[2]},fer{n:07d}.png,{n % 3},{7 - n % 3},0,1,0,0,0,1,1,0" for n, row in enumerate(rows)
    ]
    votes[2] = votes[2].replace("fer0000002.png", "")  # FER+ names no image for some rows
    write(root / "fer2013new.csv", [VOTE_HEADER, *reversed(votes)])


def ckextended(root: Path) -> None:
    """The CSV with Contempt as 7."""
    write(root / "ckextended.csv", ["emotion,pixels,Usage", *pixel_rows(8, Painter())])


def affectnet_plus(root: Path) -> None:
    """Folders of images and JSON, with the keys in both spellings that are seen."""
    painter = Painter()
    for part, count in (("train_set", 22), ("validation_set", 8)):
        folder = root / "human_annotated" / part
        for n in range(count):
            painter.jpeg(folder / "images" / f"{n}.jpg")
            soft = np.full(8, 0.04)
            soft[n % 8] = 0.72
            meta = {"age": 20 + n, "gender": {"male": 0.3, "female": 0.7}, "valence": 0.1, "arousal": -0.2}
            keys = ("human-label", "soft-label", "subset", "meta-data")
            keys = keys if n % 2 else ("Human-Label", "Soft-Label", "Subset", "Metadata")
            said = dict(zip(keys, (n % 11, soft.tolist(), n % 3, {**meta, "landmark-68": [1.5] * 136}), strict=True))
            write(folder / "annotations" / f"{n}.json", [json.dumps(said)])
    painter.jpeg(root / "no_human_annotated" / "images" / "1.jpg")


def affectnet_folders(root: Path) -> None:
    """AffectNet's later layout, a few npy files an image."""
    painter = Painter()
    for part, count in (("train_set", 14), ("val_set", 7)):
        for n in range(count):
            painter.jpeg(root / part / "images" / f"{n}.jpg")
            (root / part / "annotations").mkdir(exist_ok=True)
            for kind, value in (("exp", str(n % 7)), ("val", "0.25"), ("aro", "-0.5")):
                np.save(root / part / "annotations" / f"{n}_{kind}.npy", np.asarray(value))


def affectnet_lists(root: Path) -> None:
    """AffectNet's manual lists."""
    painter = Painter()
    header = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
    rows = {"training": [f"1/{n}.jpg,0,0,8,8,1;2,{n % 8},0.1,0.2" for n in range(16)]}
    rows["validation"] = [f"2/{n}.jpg,0,0,8,8,1;2,{n},0.1,0.2" for n in range(7)]
    write(root / "training.csv", [header, *rows["training"]])
    write(root / "validation.csv", rows["validation"])  # published without a header
    for row in (*rows["training"], *rows["validation"]):
        painter.jpeg(root / "Manually_Annotated_Images" / row.partition(",")[0])


def raf_db(root: Path) -> None:
    """The original, with the shares of the raters."""
    painter = Painter()
    names = [*(f"train_{n:05d}" for n in range(1, 15)), *(f"test_{n:04d}" for n in range(1, 8))]
    write(root / "EmoLabel" / "list_patition_label.txt", [f"{name}.jpg {n % 7 + 1}" for n, name in enumerate(names)])
    shares = [" ".join(f"{0.4 if k == n % 7 else 0.1:.2f}" for k in range(7)) for n in range(len(names))]
    lines = [f"{name}.jpg {share} " for name, share in zip(names, shares, strict=True)]  # a blank ends each line
    write(root / "EmoLabel" / "distribution_basic.txt", lines[::-1])
    for name in names:
        painter.jpeg(root / "Image" / "aligned" / f"{name}_aligned.jpg")


def raf_db_copy(root: Path) -> None:
    """The copy with numbered folders."""
    painter = Painter()
    for part, count in (("train", 14), ("test", 7)):
        rows = [(f"{part}_{n:05d}_aligned.jpg", n % 7 + 1) for n in range(count)]
        write(root / f"{part}_labels.csv", ["image,label", *(f"{image},{label}" for image, label in rows)])
        for image, label in rows:
            painter.jpeg(root / "DATASET" / part / str(label) / image)


def expw(root: Path) -> None:
    """Photographs with several faces; one row stands twice, some are of low confidence."""
    painter = Painter()
    lines = []
    for n in range(14):
        painter.jpeg(root / "image" / "origin" / f"angry_actor_{n}.jpg", 64)
        lines += [
            f"angry_actor_{n}.jpg {f} {4 + 8 * f} {8 * f} {24 + 8 * f} {28 + 8 * f} {60 + 5 * f} {(n + f) % 7}"
            for f in range(2)
        ]
    write(root / "label" / "label.lst", [*lines, lines[0]])


def yolo(root: Path) -> None:
    """AffectNet in YOLO format; one picture has two faces."""
    painter = Painter()
    names = ", ".join(YOLO_NAMES)
    write(root / "data.yaml", ["train: ../train/images", "val: ../valid/images", "nc: 8", f"names: [{names}]"])
    for part, count in (("train", 16), ("valid", 8), ("test", 8)):
        for n in range(count):
            painter.jpeg(root / part / "images" / f"face.{n}.rf.jpg", 32)
            lines = [f"{n % 8} 0.5 0.5 0.5 0.75"] + (
                [f"{(n + 1) % 8} 0.25 0.25 0.5 0.5"] if part == "train" and not n else []
            )
            write(root / part / "labels" / f"face.{n}.rf.txt", lines)


def affectnet_copy(root: Path) -> None:
    """The copy of Kaggle with ``labels.csv``: one row's folder is another class than its label."""
    painter = Painter()
    names = [name.lower() for name in (*REFERENCE, "Contempt")]
    rows = [(f"{names[n % 8]}/image{n:07d}.jpg", names[n % 8], 0.5 + 0.03 * n) for n in range(16)]
    rows[1] = (rows[1][0], "surprise", 0.9)
    write(
        root / "labels.csv",
        [",pth,label,relFCs", *(f"{n},{p},{label},{c:.2f}" for n, (p, label, c) in enumerate(rows))],
    )
    for path, _, _ in rows:
        painter.jpeg(root / path)


def kdef(root: Path) -> None:
    """Two sessions of four persons, seen from two sides."""
    painter = Painter()
    for person in ("F01", "F02", "M01", "M02"):
        for code in ("AF", "AN", "DI", "HA", "NE", "SA", "SU"):
            for session, angle in (("A", "S"), ("B", "FL")):
                painter.jpeg(root / "KDEF" / f"{session}{person}" / f"{session}{person}{code}{angle}.JPG")


def jaffe(root: Path) -> None:
    """Three persons, as TIFF."""
    painter = Painter()
    for number, (person, code) in enumerate(
        (p, c) for p in ("KA", "KL", "YM") for c in ("AN", "DI", "FE", "HA", "NE", "SA", "SU")
    ):
        painter.tiff(root / f"{person}.{code}1.{number}.tiff")


def fer_plus(root: Path) -> None:
    """The PNG files of the authors' script."""
    painter, rows = Painter(), []
    for usage, folder, count in (
        ("Training", "FER2013Train", 16),
        ("PublicTest", "FER2013Valid", 8),
        ("PrivateTest", "FER2013Test", 8),
    ):
        for n in range(count):
            number = len(rows)
            votes = [0] * 10
            votes[n % 8] = 9
            rows.append(f"{usage},fer{number:07d}.png,{','.join(map(str, votes))}")
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(painter.pixels(48, 1)[:, :, 0]).save(root / folder / f"fer{number:07d}.png")
    write(root / "fer2013new.csv", [VOTE_HEADER, *rows])


def class_folders(root: Path) -> None:
    """FER2013 as class folders."""
    painter = Painter()
    for part, count in (("train", 2), ("test", 1)):
        for name in FER2013:
            for n in range(count):
                painter.jpeg(root / part / name.lower() / f"{n}.jpg")


def tars(root: Path) -> None:
    """WebDataset with names of classes as this hub's sets have them."""
    painter, names = Painter(), ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")
    root.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 14), ("test", 7)):
        with tarfile.open(root / f"{part}-000.tar", "w") as tar:
            for n in range(count):
                members = {"jpg": encode_image(painter.pixels()), "cls": names[n % 7].encode()}
                for extension, data in members.items():
                    member = tarfile.TarInfo(f"{part}{n}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


LAYOUTS = {
    "fer2013": Layout(
        fer2013,
        "fer2013 --table {root}/fer2013.csv --votes {root}/fer2013new.csv",
        {
            "train": {"fer0000000": "Anger", "fer0000012": "Sad", "fer0000015": "Surprise"},
            "test": {"fer0000034": "Neutral"},
        },
        (21, 7, 7),
    ),
    "ckextended": Layout(
        ckextended,
        "ckextended --table {root}/ckextended.csv",
        {"train": {"fer0000023": "Contempt", "fer0000012": "Sad"}, "holdout": {"fer0000024": "Anger"}},
        (24, 8, 8),
    ),
    "affectnet-plus": Layout(
        affectnet_plus,
        "affectnet-plus --root {root} --num-classes 8",
        {"train": {"train_set_1": "Happy", "train_set_7": "Contempt"}, "test": {"validation_set_4": "Fear"}},
        (16, 0, 8),
    ),
    "affectnet-folders": Layout(
        affectnet_folders,
        "affectnet-folders --root {root}",
        {"train": {"train_set_1": "Happy"}, "test": {"val_set_6": "Anger"}},
        (14, 0, 7),
    ),
    "affectnet": Layout(
        affectnet_lists,
        "affectnet --train {root}/training.csv --test {root}/validation.csv --images {root}/Manually_Annotated_Images "
        "--num-classes 8",
        {"train": {"1_7": "Contempt"}, "test": {"2_3": "Surprise"}},
        (16, 0, 7),
    ),
    "rafdb": Layout(
        raf_db,
        "rafdb --root {root}",
        {"train": {"train_00001": "Surprise", "train_00005": "Sad"}, "test": {"test_0007": "Neutral"}},
        (14, 0, 7),
    ),
    "rafdb-copy": Layout(
        raf_db_copy,
        "rafdb --root {root}",
        {"train": {"train_00000": "Surprise", "train_00004": "Sad"}, "test": {"test_00006": "Neutral"}},
        (14, 0, 7),
    ),
    "expw": Layout(
        expw,
        "expw --root {root}",
        {"train": {"angry_actor_0_jpg_0_4_24_24": "Anger", "angry_actor_3_jpg_8_12_24_24": "Sad"}},
        (28, 0, 0),
    ),
    "yolo": Layout(
        yolo,
        "yolo --root {root}",
        {
            "train": {"train_face_5_rf": "Neutral", "train_face_0_rf_jpg_1": "Contempt"},
            "test": {"test_face_7_rf": "Surprise"},
        },
        (17, 8, 8),
    ),
    "affectnet-copy": Layout(
        affectnet_copy,
        "folder --table {root}/labels.csv --images {root} --label-by column --classes Neutral Happy Sad Surprise Fear "
        "Disgust Anger Contempt",
        {"train": {"happy_image0000001": "Surprise", "contempt_image0000007": "Contempt"}},
        (16, 0, 0),
    ),
    "kdef": Layout(
        kdef,
        "kdef --images {root}",
        {"train": {"KDEF_AF01_AF01AFS": "Fear", "KDEF_BM02_BM02SUFL": "Surprise"}},
        (56, 0, 0),
    ),
    "jaffe": Layout(
        jaffe, "jaffe --images {root}", {"train": {"KA_AN1_0": "Anger", "YM_SU1_20": "Surprise"}}, (21, 0, 0)
    ),
    "ferplus": Layout(
        fer_plus,
        "ferplus --table {root}/fer2013new.csv --images {root}",
        {"train": {"fer0000002": "Surprise"}, "holdout": {"fer0000016": "Neutral"}},
        (16, 8, 8),
    ),
    "class-folders": Layout(
        class_folders,
        "class-folders --train {root}/train --test {root}/test",
        {"train": {"train_angry_0": "Anger"}, "test": {"test_sad_0": "Sad"}},
        (14, 0, 7),
    ),
    "webdataset": Layout(
        tars,
        "webdataset --train {root}/train-000.tar --test {root}/test-000.tar",
        {"train": {"train0": "Anger"}, "test": {"test5": "Sad"}},
        (14, 0, 7),
    ),
}
