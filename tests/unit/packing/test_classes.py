"""What labels mean: names, other spellings of them, and numbers only where somebody said what they mean."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from ldlva_dist.errors import SettingError
from ldlva_dist.packing.classes.class_index import ClassIndex, as_option, stated_classes
from ldlva_dist.packing.classes.known_sets import FER2013, ORDERS, PUBLISHED, RAF_DB
from ldlva_dist.packing.classes.published_counts import compare_counts
from ldlva_dist.packing.passes.pass1_survey import UNKNOWN_LABEL
from ldlva_dist.packing.passes.settings import PackSettings
from ldlva_dist.packing.passes.survey_columns import Columns
from ldlva_dist.packing.rules.budget import _labels
from ldlva_dist.packing.rules.labels import check_labels
from ldlva_dist.packing.sources.rows import REFERENCE_CLASSES


def _index(*words: str) -> ClassIndex:
    stated = stated_classes(words)
    return ClassIndex(stated.names, stated.numbers)


@pytest.mark.parametrize(
    "words",
    [["1=Surprise", "2=Fear", "4=Happy"], ["1=Surprise,2=Fear,4=Happy"], ["1=Surprise,", "2 = Fear,", "4=Happy"]],
)
def test_stated_numbers_are_read_as_stated_and_no_others(words: list[str]) -> None:
    index = _index(*words)
    assert index.class_names == ("Surprise", "Fear", "Happy")
    assert [index.find(label) for label in ("1", "2", "4", "0", "3", "fearful", "4.0", "04", " 2 ")] == [
        0, 1, 2, None, None, 1, 2, 2, 1,
    ]  # fmt: skip


def test_the_order_of_stated_classes_is_the_one_written() -> None:
    index = _index("7=Neutral", "4=Happy", "1=Surprise")
    assert [index.find(label) for label in ("1", "4", "7")] == [2, 1, 0]


def test_names_in_order_count_from_zero_and_names_that_are_numbers_are_only_names() -> None:
    assert [_index("calm", "glad").find(label) for label in ("0", "1", "1.0", "2", "glad")] == [0, 1, 1, None, 1]
    assert [_index("calm,glad").find(label) for label in ("0", "Calm")] == [0, 0]
    assert [_index("1", "2", "3").find(label) for label in ("0", "1", "2", "3")] == [None, 0, 1, 2]


def test_without_classes_no_number_means_anything() -> None:
    assert _index().class_names == REFERENCE_CLASSES
    assert [_index().find(label) for label in ("0", "3", "angry")] == [None, None, 6]


@pytest.mark.parametrize(
    "words",
    [
        ["calm"], ["calm", "Calm"], ["calm", ""], ["calm", "a\nb"], ["calm", "x" * 101], ["0=calm", "glad"],
        ["0=calm", "0=glad"], ["0=calm", "1="], ["0=calm", "1=calm"], ["0=calm", "1=0"],
    ],
)  # fmt: skip
def test_classes_that_cannot_be_are_one_sentence(words: list[str]) -> None:
    with pytest.raises(SettingError, match="--classes"):
        stated_classes(words)


def test_words_for_none_are_no_label_unless_a_class_has_the_name() -> None:
    index = ClassIndex(REFERENCE_CLASSES)
    assert [index.is_missing(label) for label in (None, "", " ", "NA", "nan", "None", "null", "N/A", "0", "x")] == [
        *[True] * 8, False, False,
    ]  # fmt: skip
    assert not ClassIndex(("Happy", "None")).is_missing("none")


def _check(labels: Mapping[str, int], settings: PackSettings, missing_images: int = 0) -> None:
    unknown = {label: count for label, count in labels.items() if settings.classes.find(label) is None}
    codes = [0] * sum(unknown.values()) + [1] * missing_images
    total = sum(labels.values()) + missing_images
    nothing = np.zeros(total, dtype=np.uint32)
    found = Columns(
        rows_P=np.array([total]),
        hash_N=nothing.astype(np.uint64),
        identity_N=nothing.astype(np.uint64),
        label_N=nothing.astype(np.int16),
        va_N2=np.zeros((total, 2), np.float32),
        size_N=nothing.astype(np.int32),
        checksum_N=nothing,
        pixels_N=nothing,
        flipped_N=None,
        code_N=np.array(codes + [-1] * (total - len(codes)), dtype=np.int32),
        reasons=[UNKNOWN_LABEL, "the image is missing"],
        labels=labels,
        unknown=unknown,
        optional=(),
    )
    check_labels(found, settings)


def _settings(*words: str, numbers: dict[int, str] | None = None) -> PackSettings:
    stated = stated_classes(words)
    return PackSettings(name="set", class_names=stated.names, numbers=stated.numbers if numbers is None else numbers)


def test_bare_numbers_are_refused_with_the_orders_that_would_fit() -> None:
    with pytest.raises(SettingError) as caught:
        _check({str(number): 12 for number in range(7)}, _settings())
    said = str(caught.value)
    assert "(0, 1, 2, 3, 4, 5, 6)" in said
    assert "--classes 0=Angry 1=Disgust 2=Fear 3=Happy 4=Sad 5=Surprise 6=Neutral" in said
    assert "--classes 0=Neutral 1=Happy" in said
    assert "1=Surprise" not in said  # RAF-DB counts from 1
    with pytest.raises(SettingError, match="RAF-DB: --classes 1=Surprise 2=Fear"):
        _check({f"{number}.0": 12 for number in range(1, 8)}, _settings())


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.where)
def test_what_is_proposed_can_be_typed(order) -> None:
    words = [word.strip("'") for word in as_option(order.numbers).split()[1:]]
    assert stated_classes(words).numbers == order.numbers


def test_other_faults_are_said_before_numbers() -> None:
    _check({"0": 200}, _settings(), missing_images=40)  # the budget says these


def test_a_stray_number_among_names_is_a_rejected_row() -> None:
    _check({"happy": 1000, "3": 2}, _settings())


def test_labels_that_count_from_one_are_said_to_with_what_to_type() -> None:
    labels = {str(number): 12 for number in range(1, 8)}
    with pytest.raises(SettingError, match=r"count from 1.*say --classes 1=Surprise 2=Fear .* 7=Neutral$"):
        _check(labels, _settings(*RAF_DB))
    _check(labels, _settings(*(f"{n}={name}" for n, name in enumerate(RAF_DB, 1))))


def test_an_unknown_label_is_named_with_its_rows_and_the_setting() -> None:
    _check({"happy": 84, "contempt": 12}, _settings())  # the budget says this
    assert _labels({UNKNOWN_LABEL: 12}, {"contempt": 12}) == "; no class of --classes is 'contempt' (12)"
    with pytest.raises(SettingError, match=r"--classes must name the labels of the data \(calm, glad\)"):
        _check({"calm": 2, "glad": 3}, _settings())


def _counts(names: Sequence[str], counts: Mapping[str, int], held: int = 0) -> dict[str, list[int]]:
    whole = [counts[name] for name in names]
    return {"train": [n - held for n in whole], "holdout": [held] * len(whole), "test": [0] * len(whole)}


@pytest.mark.parametrize("part", PUBLISHED, ids=lambda part: part.of)
def test_a_known_set_is_named_by_its_counts_in_any_order_and_spelling(part) -> None:
    names = sorted(part.counts, key=lambda name: part.counts[name])
    said = list(compare_counts(names, _counts(names, part.counts, held=10)))
    assert [line for line in said if not line.startswith("warning")] == [
        f"train and holdout: the counts are those of {part.of}"
    ]


def test_published_totals() -> None:
    totals = {part.of: part.total for part in PUBLISHED}
    assert [totals[f"RAF-DB's {name} part"] for name in ("training", "test")] == [12271, 3068]
    assert [totals[f"FER2013's {name}"] for name in ("Training", "PublicTest", "PrivateTest")] == [28709, 3589, 3589]
    assert [totals[f"AffectNet's training list, {n} classes"] for n in (7, 8)] == [283901, 287651]
    assert totals["ExpW"] == 91793


def test_names_that_contradict_the_published_counts_are_warned_of_with_both() -> None:
    counts = dict(zip(REFERENCE_CLASSES, next(p for p in PUBLISHED if p.total == 12271).counts.values(), strict=True))
    said = list(compare_counts(REFERENCE_CLASSES, _counts(REFERENCE_CLASSES, counts)))
    assert len(said) == 1
    assert said[0].startswith("warning: train has as many rows as RAF-DB's training part (12,271) but other counts")
    assert "1290 Surprise, here 4772" in said[0]
    assert list(compare_counts(FER2013, _counts(FER2013, dict.fromkeys(FER2013, 500)))) != []
    assert list(compare_counts(("a", "b"), _counts(("a", "b"), {"a": 1750, "b": 1750}))) == []
