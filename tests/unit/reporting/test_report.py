"""The page without a browser: what it shows, that it is safe, that it is the same every time."""

import base64
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.stats import binomtest

from ldlva_dist.analysis import metrics, suspicion
from ldlva_dist.analysis.groups import SuspectGroup
from ldlva_dist.analysis.label_findings import Findings, write_uncertainty
from ldlva_dist.dataset.manifest import write_info
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.packing.near_copies import CopyGroup
from ldlva_dist.records.uncertainty_history import write_history
from ldlva_dist.reporting.report import charts, pictures, plane, samples
from ldlva_dist.reporting.report.collect import Limits, collect
from ldlva_dist.reporting.report.overview import ReportedRun, overview
from ldlva_dist.reporting.report.page import NOTHING, class_colors, render
from testing.synthetic_run import SyntheticRun, synthetic_run

ROWS = 400
HOSTILE = "</script><script>alert(1)</script><!--\u2028\"'&"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    return synthetic_run(tmp_path_factory.mktemp("run"), rows=ROWS, k=5, pool=40, pixels=48)


def glance(run: SyntheticRun, name: str = "first") -> ReportedRun:
    probs_nC, labels_n = run.findings.probs_NC[:100], run.findings.labels_N[:100]
    given = metrics.classification(labels_n, probs_nC, num_classes=len(run.dataset.info.class_names))
    return ReportedRun(
        name=name,
        facts=[("data set", run.dataset.info.name)],
        metrics=[{"epoch": e, "loss": 2 - e / 5, "holdout_accuracy": None} for e in range(5)],
        evaluation={"given": given, "split": "test", "samples": 100, "steps": 70},
        class_names=run.dataset.info.class_names,
        class_counts=run.dataset.info.class_counts["train"],
    )


def page(run: SyntheticRun, folder: Path, limits: Limits | None = None) -> str:
    shown = collect(str(folder / "first"), run, run.findings, limits or Limits(samples=60))
    return render(overview(glance(run), None), shown).decode()


class Scripts(HTMLParser):
    """Every script element, with its attributes and its text, and every other tag's attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, Any], str]] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "xlink:href")]

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            attrs, text = self.scripts.pop()
            self.scripts.append((attrs, text + data))
        else:
            self.text.append(data)

    def data(self) -> dict[str, Any]:
        [text] = [text for attrs, text in self.scripts if attrs.get("id") == "data"]
        return json.loads(text)


def test_the_page_holds_what_the_run_found(run: SyntheticRun, tmp_path: Path) -> None:
    found = Scripts(page(run, tmp_path))
    data, findings = found.data(), run.findings
    shown, ids = data["samples"], np.array(data["samples"]["id"])
    assert len(ids) == len(set(ids)) > 40
    assert shown["key"] == [f"face_{i:07d}" for i in ids]
    assert shown["label"] == findings.labels_N[ids].tolist()
    np.testing.assert_allclose(shown["model"], findings.probs_NC[ids], atol=6e-4)
    np.testing.assert_allclose(shown["neighbors"], findings.aggregated_NC[ids], atol=6e-4)
    assert [[data["others"]["id"][o] for o in row] for row in shown["near"]] == run.graph_NK[ids].tolist()
    lines = next(text for attrs, text in found.scripts if attrs.get("id") == "pictures").strip().split("\n")
    assert len(lines) == len(ids) + len(data["others"]["id"])
    for place, side in ((shown["picture"][0], 88), (data["others"]["picture"][0], 44)):
        with Image.open(io.BytesIO(base64.b64decode(lines[place]))) as picture:
            assert (picture.format, picture.size) == ("WEBP", (side, side))
    assert "history" not in shown


def test_every_sample_is_shown_for_what_it_is(run: SyntheticRun) -> None:
    findings = run.findings
    proposed = findings.proposed_N != findings.labels_N
    by_suspicion = sorted(range(ROWS), key=lambda i: (-findings.suspicion_N[i], i))
    listed = np.isin(np.arange(ROWS), [*by_suspicion[3:15], by_suspicion[-1]])
    assert not proposed[by_suspicion[-1]]
    ids, kinds = samples.choose_samples(findings.suspicion_N, findings.uncertainty_N, listed, proposed, 40)
    doubtful = sorted((i for i in by_suspicion if listed[i] or proposed[i]), key=lambda i: not listed[i])[:20]
    expected = {
        1: [i for i in doubtful if listed[i]],
        2: [i for i in doubtful if proposed[i]],
        4: sorted(range(ROWS), key=lambda i: (-findings.uncertainty_N[i], i))[:14],
        8: sorted(range(ROWS), key=lambda i: (findings.suspicion_N[i], i))[:6],
    }
    assert len(expected[1]) == 13
    for bit, wanted in expected.items():
        assert ids[(kinds & bit) > 0].tolist() == sorted(wanted)
    with pytest.raises(SettingError, match="--samples must be >= 4, got 3"):
        samples.choose_samples(findings.suspicion_N, findings.uncertainty_N, listed, proposed, 3)


def test_the_rank_counts_from_the_most_suspicious(run: SyntheticRun) -> None:
    findings = run.findings
    order = sorted(range(ROWS), key=lambda i: (-findings.suspicion_N[i], i))
    assert findings.rank_N.tolist() == [order.index(i) + 1 for i in range(ROWS)]


def test_neighbours_that_matter_most_get_their_pictures_first(run: SyntheticRun, tmp_path: Path) -> None:
    data = Scripts(page(run, tmp_path)).data()
    shown, others = data["samples"], data["others"]
    pairs = []
    for i, rank in enumerate(shown["rank"]):
        shares = run.opinions(np.array(shown["id"])).shares_nK[i]
        order = sorted(range(len(shares)), key=lambda k: (-shares[k], k))
        pairs += [(order.index(k), rank, k, shown["near"][i][k]) for k in range(len(shares))]
    expected = list(dict.fromkeys(other for *_, other in sorted(pairs)))
    assert expected == sorted(range(len(others["id"])), key=lambda o: others["picture"][o])


def test_pictures_that_do_not_fit_are_left_out_and_that_is_said(run: SyntheticRun, tmp_path: Path) -> None:
    full = page(run, tmp_path)
    taken = len(render(overview(glance(run), None), NOTHING))
    tight = page(run, tmp_path, Limits(samples=60, megabytes=0.21, taken=taken))
    assert len(tight.encode()) <= 0.21e6 < len(full.encode())
    data = Scripts(tight).data()
    pictured = [place >= 0 for place in data["others"]["picture"]]
    assert any(pictured)
    assert not all(pictured)
    assert f"{pictured.count(False)} of {len(pictured)} pictures of neighbours." in tight
    assert "Left out" not in full


def with_classes(run: SyntheticRun, names: Sequence[str]) -> SyntheticRun:
    """The same faces under so many classes, each of which every sample may be of."""
    generator, count = np.random.default_rng(0), len(names)
    labels_N = np.arange(ROWS) % count
    logits_NC = generator.normal(0, 2, (ROWS, count)) + 4 * np.eye(count)[generator.permutation(labels_N)]
    probs_NC = (np.exp(logits_NC) / np.exp(logits_NC).sum(axis=1, keepdims=True)).astype(np.float32)
    pooled_NC = suspicion.pooled(probs_NC, probs_NC, 0.5)
    findings = Findings(
        labels_N=labels_N,
        uncertainty_N=run.findings.uncertainty_N,
        probs_NC=probs_NC,
        aggregated_NC=probs_NC,
        suspicion_N=suspicion.self_confidence(pooled_NC, labels_N),
        expected_C=np.zeros(probs_NC.shape[1]),
        proposed_N=pooled_NC.argmax(axis=1),
    )
    counts = {"train": tuple(np.bincount(labels_N, minlength=count).tolist())}
    info = replace(run.dataset.info, class_names=tuple(names), class_counts={**run.dataset.info.class_counts, **counts})
    return replace(run, dataset=replace(run.dataset, info=info), findings=findings)


@pytest.mark.parametrize(("count", "megabytes"), [(2, 0.2), (500, 1.0), (1000, 0.8)])
def test_the_limit_holds_for_the_whole_page_of_any_number_of_classes(
    run: SyntheticRun, tmp_path: Path, count: int, megabytes: float
) -> None:
    many = with_classes(run, [f"</script>{i}\"'" for i in range(count)])
    probs_NC, labels_N = many.findings.probs_NC, many.findings.labels_N
    first = overview(glance(many), None)
    limits = Limits(samples=400, megabytes=megabytes, taken=len(render(first, NOTHING)))
    shown = collect(str(tmp_path), many, many.findings, limits)
    text = render(first, shown)
    assert 0.7 * megabytes * 1e6 < len(text) <= megabytes * 1e6
    assert all(left in text.decode() for left in shown.left_out)
    columns, ids = shown.data["samples"], np.array(shown.data["samples"]["id"])
    classes_nT = np.array(columns.get("classes", [range(count)] * len(ids)))
    assert classes_nT.shape[1] == min(count, samples.LIKELIEST)
    assert (classes_nT == labels_N[ids][:, None]).any(axis=1).all()
    assert (classes_nT == many.findings.proposed_N[ids][:, None]).any(axis=1).all()
    expected = np.take_along_axis(probs_NC[ids], classes_nT, axis=1)
    np.testing.assert_allclose(columns["model"], expected, atol=6e-4)
    left_nC = probs_NC[ids].copy()
    np.put_along_axis(left_nC, classes_nT, 0, axis=1)
    third_n = np.sort(expected, axis=1)[:, min(2, count - 1)]  # the least but for label and proposal
    assert (left_nC.max(axis=1) <= third_n).all()


def test_a_matrix_of_many_classes_shows_those_that_are_mistaken_most(run: SyntheticRun) -> None:
    """Class 7 is always taken for class 450, and 3 half of the time for 4; all others are right."""
    count = 500
    confusion = 10 * np.eye(count, dtype=int)
    confusion[7, 7], confusion[7, 450], confusion[3, 3], confusion[3, 4] = 0, 10, 5, 5
    many = with_classes(run, [f"n{i}" for i in range(count)])
    usual = glance(many).evaluation
    given = usual["given"] | {"confusion": confusion.tolist()}
    first = replace(glance(many), evaluation=usual | {"given": given}, class_counts=[*range(count)])
    shown = overview(first, None)
    assert len(shown.confusion.classes) == 40
    assert {3, 4, 7, 450} <= set(shown.confusion.classes)
    place = {index: i for i, index in enumerate(shown.confusion.classes)}
    assert shown.confusion.shares[place[7]][place[450]] == 1.0
    assert shown.confusion.counts[place[3]][place[4]] == 5
    assert [size.index for size in shown.sizes] == list(range(300, 500))
    text = render(shown, None).decode()
    assert "40 of 500 classes, those with most wrong predictions" in text
    assert "200 of 500 classes, the largest" in text
    assert "n7 as n450: 10" in text


def test_a_page_that_cannot_be_made_so_small_is_refused_with_the_size_that_can(
    run: SyntheticRun, tmp_path: Path
) -> None:
    taken = len(render(overview(glance(run), None), NOTHING))
    with pytest.raises(SettingError, match=r"--megabytes must be >= 0\.\d for this run, got 0.06") as refused:
        collect(str(tmp_path), run, run.findings, Limits(samples=60, megabytes=0.06, taken=taken))
    named = float(re.findall(r"\d\.\d", str(refused.value))[0])
    collect(str(tmp_path), run, run.findings, Limits(samples=60, megabytes=named, taken=taken))


def test_a_damaged_image_is_named_and_stays_blank(run: SyntheticRun, tmp_path: Path) -> None:
    """A run with data.on_bad_data=quarantine was trained around it, and its report must not fail at it."""
    shard, places = Path(run.dataset.uri) / "train-000000.tar", run.dataset.columns(["offset", "checksum"])
    whole, [victim, *_] = shard.read_bytes(), Scripts(page(run, tmp_path)).data()["samples"]["id"]
    broken = set(np.flatnonzero(places["offset"].to_numpy() == places["offset"][victim].as_py()).tolist())
    at = places["offset"][victim].as_py() + 100
    try:
        shard.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        shown = collect(str(tmp_path / "first"), run, run.findings, Limits(samples=60))
    finally:
        shard.write_bytes(whole)
    data = shown.data["samples"], shown.data["others"]
    blank = {i for part in data for i, place in zip(part["id"], part["picture"], strict=True) if place < 0}
    assert victim in blank
    assert blank == set(shown.damaged) <= broken
    assert "does not have the checksum of the manifest" in shown.damaged[victim]
    text = render(overview(glance(run), None), shown).decode()
    assert f"{len(blank)} of the images here are damaged and stay blank" in text
    assert "stay blank" not in page(run, tmp_path)


def test_an_image_that_cannot_be_decoded_takes_no_line() -> None:
    good = io.BytesIO()
    Image.new("RGB", (9, 9)).save(good, "PNG")
    files = {3: b"no image", 5: good.getvalue()}
    small = pictures.Pictures(files.__getitem__, 10**6)
    assert (small.add([3, 5], pictures.FACE), len(small.lines)) == ({5: 0}, 1)
    assert list(small.damaged) == [3]
    assert "the image cannot be decoded" in small.damaged[3]


def test_the_plane_unpacks_to_its_points(run: SyntheticRun) -> None:
    labels_N = run.findings.labels_N * 1000  # as of a data set of thousands of classes
    facts, text = plane.pack_points(run.va_N2, labels_N, run.findings.uncertainty_N, 150)
    points, take = np.frombuffer(base64.b64decode(text), dtype=plane.RECORD), slice(0, None, 3)
    assert (facts["points"], facts["of"]) == (len(points), ROWS)
    for axis, name in enumerate("xy"):
        back = points[name] / plane.LEVELS * facts["span"] + facts["low"][axis]
        np.testing.assert_allclose(back, run.va_N2[take, axis], atol=facts["span"] / plane.LEVELS)
    assert points["label"].tolist() == labels_N[take].tolist()
    np.testing.assert_allclose(points["uncertainty"] / 255, run.findings.uncertainty_N[take], atol=0.5 / 255 + 1e-6)


def test_hostile_keys_and_names_stay_text(run: SyntheticRun, tmp_path: Path) -> None:
    names = (HOSTILE, *run.dataset.info.class_names[1:])
    info = replace(run.dataset.info, class_names=names)
    hostile = replace(run, dataset=replace(run.dataset, info=info))
    first = replace(glance(hostile), name=HOSTILE, facts=[(HOSTILE, HOSTILE)], class_names=names)
    shown = collect(str(tmp_path), hostile, run.findings, Limits(samples=30))
    shown.data["samples"]["key"][0] = HOSTILE  # pyright: ignore[reportIndexIssue]
    found = Scripts(render(overview(first, glance(run, HOSTILE)), shown).decode())
    assert [attrs.get("type") for attrs, _ in found.scripts] == ["application/json", "text/plain", "text/plain", None]
    data = found.data()
    assert (data["classes"][0], data["samples"]["key"][0]) == (HOSTILE, HOSTILE)
    assert "alert(1)" not in found.scripts[-1][1]
    assert HOSTILE in "".join(found.text)


def test_nothing_is_fetched_and_only_the_pages_own_script_may_run(run: SyntheticRun, tmp_path: Path) -> None:
    text = page(run, tmp_path)
    found = Scripts(text)
    assert [link for link in found.links if not link.startswith("#")] == []
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(found.scripts[-1][1].encode()).digest()).decode()
    assert "default-src 'none'" in policy[1]
    assert f"script-src 'sha256-{digest}'" in policy[1].replace("&#39;", "'").replace("&#43;", "+")
    assert "innerHTML" not in text


def test_the_same_run_gives_the_same_page(run: SyntheticRun, tmp_path: Path) -> None:
    assert page(run, tmp_path) == page(run, tmp_path)


def test_the_history_is_shown_where_the_run_kept_it(run: SyntheticRun, tmp_path: Path) -> None:
    for step in (1, 2):
        write_history(
            str(tmp_path / "first"), run.findings.uncertainty_N / step, step=step, epoch=step / 2, rank=0, first_id=0
        )
    data = Scripts(page(run, tmp_path)).data()
    assert data["epochs"] == [0.5, 1.0]
    expected = run.findings.uncertainty_N[data["samples"]["id"]]
    np.testing.assert_allclose(data["samples"]["history"], np.stack([expected, expected / 2], axis=1), atol=3e-3)


def test_a_history_that_ranks_are_still_writing_is_read_up_to_the_checkpoint(run: SyntheticRun, tmp_path: Path) -> None:
    half = run.findings.uncertainty_N[: ROWS // 2]
    for step, parts in ((5, (0, ROWS // 2)), (10, (0,))):  # at step 10 a rank was killed, or has not come so far
        for rank, first_id in enumerate(parts):
            write_history(str(tmp_path), half, step=step, epoch=step / 5, rank=rank, first_id=first_id)
    assert collect(str(tmp_path), run, run.findings, Limits(samples=60), 5).data["epochs"] == [1.0]
    with pytest.raises(DataError, match="samples at step 10"):
        collect(str(tmp_path), run, run.findings, Limits(samples=60), 10)


def test_a_run_without_neighbours_is_shown_without_samples(run: SyntheticRun) -> None:
    found = Scripts(render(overview(glance(run), None), None).decode())
    assert len(found.scripts) == 1
    assert "keeps no outputs of single samples" in "".join(found.text)


def test_groups_and_their_distances_stand_on_the_page(run: SyntheticRun) -> None:
    judged = glance(run)
    votes = {"samples": 9, "kl": 0.25, "jensen_shannon": 0.1, "chebyshev": 0.125, "cosine": 0.9}
    easy = {"samples": 1200, "accuracy": 0.75, "mean_class_accuracy": 0.5, "votes": votes}
    web = SuspectGroup(samples=400, listed=20, doubted=60)
    judged = replace(judged, suspects={"subset": {"hard": web}, "source": {HOSTILE: web}})
    judged.evaluation["groups"] = {"subset": {HOSTILE: easy, "hard": {**easy, "votes": {}}}}
    judged.evaluation["ambiguity"] = {"samples": 9, "spearman": 0.375}
    text = " ".join(" ".join(Scripts(render(overview(judged, None), None).decode()).text).split())
    hostile = " ".join(HOSTILE.split())
    heads = "samples accuracy mean class acc. KL (votes) Chebyshev (votes) training labels probably wrong doubted"
    assert heads in text
    assert "1,200 0.750 0.725 to 0.774 0.500 0.250 0.125 - - -" in text
    suspects = "400 5.0% 3.3% to 7.6% 15.0% 11.8% to 18.8%"
    assert f"hard 1,200 0.750 0.725 to 0.774 0.500 - - {suspects}" in text
    assert (
        f"source samples accuracy mean class acc. training labels probably wrong doubted {hostile} - - - {suspects}"
        in text
    )
    assert "entropy of the raters' votes: 0.375" in text


def test_figures_have_intervals_and_classes_their_reliability(run: SyntheticRun) -> None:
    judged = glance(run)
    judged.evaluation["truth"] = {**judged.evaluation["given"], "kl": 0.5, "standard_errors": {"kl": 0.01}}
    shown = overview(judged, None)
    between = {figure.name: figure.interval for figure in shown.figures}
    hits = round(100 * judged.evaluation["given"]["accuracy"])
    low, high = binomtest(hits, 100).proportion_ci(method="wilson")
    assert between["accuracy"] == f"{low:.3f} to {high:.3f}"
    assert between["KL divergence"] == "0.480 to 0.520"
    assert between["calibration error (ECE)"] is None
    predicted = run.findings.probs_NC[:100].argmax(axis=1)
    assert {each.index: each.samples for each in shown.diagrams} == Counter(predicted.tolist())
    for each in shown.diagrams:
        mine = predicted == each.index
        assert each.accuracy == f"{(run.findings.labels_N[:100][mine] == each.index).mean():.2f}"
        assert each.confidence == f"{run.findings.probs_NC[:100][mine].max(axis=1).mean():.2f}"


def test_pairs_of_classes_are_counted_over_all_training_samples(run: SyntheticRun) -> None:
    found = run.findings
    listed = found.wrong_labels.is_listed_N
    data = samples.pairs_as_json(found.labels_N, found.proposed_N, listed)
    pairs = [(a, b) for a, b in zip(found.labels_N.tolist(), found.proposed_N.tolist(), strict=True) if a != b]
    of_list = [(found.labels_N[i], found.proposed_N[i]) for i in np.flatnonzero(listed)]
    assert {(a, b): (count, wrong) for a, b, count, wrong in data["pairs"]} == {
        pair: (count, of_list.count(pair)) for pair, count in Counter(pairs).items()
    }
    counts = [count for _, _, count, _ in data["pairs"]]
    assert counts == sorted(counts, reverse=True)
    assert (data["doubted"], data["pairKinds"]) == (len(pairs), len(set(pairs)))
    nobody = samples.pairs_as_json(found.labels_N, found.labels_N, listed)
    assert nobody == {"pairs": [], "doubted": 0, "pairKinds": 0}


def copies_of(ids: Sequence[int], labels: Sequence[str], *, is_exact: bool = False, last: str = "train") -> CopyGroup:
    keys, splits = [f"face_{i:07d}" for i in ids], [*["train"] * (len(ids) - 1), last]
    return CopyGroup(ids=[*ids], keys=keys, splits=splits, labels=[*labels], is_exact=is_exact)


def test_copies_stand_on_the_page_those_with_other_labels_first_and_for_review(
    run: SyntheticRun, tmp_path: Path
) -> None:
    plain = collect(str(tmp_path), run, run.findings, Limits(samples=60))
    assert "copies" not in plain.data
    hidden = sorted(set(range(ROWS)) - set(plain.data["samples"]["id"]))
    equal = copies_of(hidden[:12], ["Sad"] * 12, is_exact=True)
    apart = copies_of([*hidden[20:23]], ["Sad", HOSTILE, "Fear"], last="test")
    shown = collect(str(tmp_path), run, run.findings, Limits(samples=60), None, [equal, apart])
    data = shown.data
    first, second = data["copies"]["groups"]
    assert (first["id"], first["label"]) == (apart.ids, apart.labels)
    assert (first["exact"], first["leak"], first["several"]) == (False, True, True)
    assert (second["id"], second["count"]) == (equal.ids[:8], 12)
    assert [place >= 0 for place in second["picture"]] == [True] + [False] * 7  # one picture says all of an exact group
    assert all(place >= 0 for place in first["picture"])
    counts = [data["copies"][name] for name in ("total", "images", "leaks", "ofSeveralLabels")]
    assert counts == [2, 15, 1, 1]
    kinds = dict(zip(data["samples"]["id"], data["samples"]["kinds"], strict=True))
    assert [i for i, bits in kinds.items() if bits & 16] == apart.ids[:2]  # the third is no training sample
    found = Scripts(render(overview(glance(run), None), shown).decode())
    assert found.data()["copies"]["groups"][0]["label"][1] == HOSTILE
    assert "alert(1)" not in found.scripts[-1][1]


def test_a_baseline_is_compared_figure_by_figure(run: SyntheticRun) -> None:
    ours, theirs = glance(run), glance(run, "plain")
    given = ours.evaluation["given"]
    theirs.evaluation["given"] = given | {"accuracy": given["accuracy"] - 0.1, "ece": given["ece"] - 0.05}
    figures = {figure.name: figure for figure in overview(ours, theirs).figures}
    assert (figures["accuracy"].difference, figures["accuracy"].is_better) == ("+0.100", True)
    assert (figures["calibration error (ECE)"].difference, figures["calibration error (ECE)"].is_better) == (
        "+0.050",
        False,
    )
    assert (figures["macro F1"].difference, figures["macro F1"].is_better) == ("±0.000", None)


def test_charts_leave_out_what_has_no_values(run: SyntheticRun) -> None:
    [chart] = charts.curves(glance(run).metrics)
    assert (chart.title, chart.lines[0].last) == ("training loss", "1.200")
    assert charts.nice_ticks(0.12, 0.57) == [0.0, 0.2, 0.4, 0.6]
    assert charts.nice_ticks(3, 3) == [2.5, 3.0, 3.5]


def test_a_curve_leaves_out_lines_of_a_step_or_two_but_not_its_last() -> None:
    steps = [20, 40, 60, 62, 80, 100, 101]
    lines = [{"epoch": step / 10, "loss": 9.0 if step == 62 else 1.0} for step in steps]
    [chart] = charts.curves(lines)
    assert chart.lines[0].path.count("L") == len(steps) - 2
    assert chart.ticks == charts.curves([line for line in lines if line["loss"] == 1.0])[0].ticks


@pytest.mark.parametrize(("baseline", "own"), [(1.0, 1.001), (1.001, 1.0), (1.0, 1.0), (0.0, 0.001), (2.0, 1.999)])
def test_the_last_values_of_two_curves_do_not_lie_on_each_other(baseline: float, own: float) -> None:
    first = [{"epoch": 0.0, "loss": 0.0}, {"epoch": 1.0, "loss": 2.0}]
    [chart] = charts.curves([*first, {"epoch": 2.0, "loss": own}], [*first, {"epoch": 2.0, "loss": baseline}])
    ys = {line.is_baseline: line.label_y for line in chart.lines}
    assert abs(ys[True] - ys[False]) >= charts.LINE_HEIGHT
    assert all(-charts.LINE_HEIGHT < y < charts.HEIGHT + charts.LINE_HEIGHT for y in ys.values())


def test_reliability_bins_are_those_of_the_calibration_error(run: SyntheticRun) -> None:
    probs, labels = run.findings.probs_NC, run.findings.labels_N
    bins = metrics.reliability(labels, probs)
    assert sum(found["share"] for found in bins) == pytest.approx(1)
    gap = sum(found["share"] * abs(found["accuracy"] - found["confidence"]) for found in bins)
    assert gap == pytest.approx(metrics.classification(labels, probs, num_classes=7)["ece"], abs=1e-6)
    bars = charts.reliability_chart(bins, num_bins=15)
    assert all(bar.x <= 1 - bar.confidence + 1e-9 <= bar.x + bar.width + 2e-9 for bar in bars)


def test_many_classes_have_colours_of_their_own() -> None:
    assert len(set(class_colors(40))) == 40


def test_uncertainty_parquet_has_a_row_for_every_training_sample(run: SyntheticRun, tmp_path: Path) -> None:
    silent = run.findings.aggregated_NC.copy()
    silent[3] = 0
    findings = replace(run.findings, aggregated_NC=silent)
    write_info(run.dataset.uri, run.dataset.info)
    rows = pq.read_table(write_uncertainty(str(tmp_path), run.dataset, findings)).to_pylist()
    assert [row["id"] for row in rows] == list(range(ROWS))
    names = run.dataset.info.class_names
    for i, row in enumerate(rows):
        label = findings.labels_N[i]
        assert (row["key"], row["label"], row["rank"]) == (f"face_{i:07d}", names[label], findings.rank_N[i])
        assert row["p_label"] == pytest.approx(findings.probs_NC[i, label])
        assert row["agreement"] == (None if i == 3 else pytest.approx(silent[i, label]))
        assert row["proposed_label"] == names[findings.proposed_N[i]]
        assert row["uncertainty"] == pytest.approx(findings.uncertainty_N[i])
