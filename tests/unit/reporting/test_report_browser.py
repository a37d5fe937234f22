"""The page in headless Chromium: it opens, filters, marks, exports and prints. Skipped where there is no Chromium."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("playwright")

from playwright.sync_api import Browser, Page, expect

from ldlva_dist.analysis import metrics
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import write_manifest
from ldlva_dist.packing.near_copies import CopyGroup
from ldlva_dist.packing.relabel import read_corrections, relabel
from ldlva_dist.reporting.report.collect import Limits, collect, suspects
from ldlva_dist.reporting.report.overview import ReportedRun, overview
from ldlva_dist.reporting.report.page import render
from testing.browser import chromium, find_chromium
from testing.synthetic_run import SyntheticRun, synthetic_run

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
NAMES = ("Neutral", 'Hap"py, very', "</script><b>Sad", "Surprise", "Fear", "Disgust", "Anger")
SOURCES = ("web", "<b>film</b>")


def written(run: SyntheticRun, path: Path, copies: Sequence[CopyGroup] | None = None) -> str:
    """The address of the run's page."""
    names = run.dataset.info.class_names
    given = metrics.classification(run.findings.labels_N, run.findings.probs_NC, num_classes=len(names))
    first = ReportedRun(
        name="first",
        facts=[("data set", "toy")],
        metrics=[],
        evaluation={"given": given, "split": "test", "samples": 500, "steps": 1},
        class_names=names,
        class_counts=run.dataset.info.class_counts["train"],
        suspects=suspects(run.dataset, run.findings),
    )
    shown = collect("first", run, run.findings, Limits(samples=320), None, copies)
    path.write_bytes(render(overview(first, None), shown))
    return path.as_uri()


def copies_in() -> list[CopyGroup]:
    """Two groups: one of equal files, one of several labels that reaches into the test part."""
    groups = []
    for ids, leaks in (([7, 11], False), ([20, 21, 22], True)):
        labels = [NAMES[2 if leaks and at == 1 else 1] for at in range(len(ids))]
        splits = [*["train"] * (len(ids) - 1), "test" if leaks else "train"]
        keys = [f"face_{i:07d}" for i in ids]
        groups.append(CopyGroup(ids=ids, keys=keys, splits=splits, labels=labels, is_exact=not leaks))
    return groups


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    made = synthetic_run(tmp_path_factory.mktemp("run"), rows=500, k=5, pool=40, pixels=48)
    table = made.dataset.columns(made.dataset.column_names())
    source = pa.array([None if i % 3 == 2 else SOURCES[i % 3] for i in range(len(table))])
    write_manifest(made.dataset.uri, table.append_column("extra_source", source))
    return replace(made, dataset=Dataset(made.dataset.uri, replace(made.dataset.info, class_names=NAMES)))


@pytest.fixture(scope="module")
def address(run: SyntheticRun, tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(run, tmp_path_factory.mktemp("page") / "report.html", copies_in())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None
    with chromium(CHROMIUM) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else wrong.append(request.url),
    )
    page.goto(address)
    page.wait_for_selector("html[data-ready]", state="attached")
    yield page
    context.close()
    assert wrong == []


def order(run: SyntheticRun) -> list[int]:
    """What the first view shows: the labels on the list, the most suspicious first."""
    found = run.findings
    order_N = np.argsort(-found.suspicion_N, kind="stable")
    ids = order_N[found.wrong_labels.is_listed_N[order_N]].tolist()
    assert 48 < len(ids) <= 160, "more than a page, and no more than half of the samples on it"
    return ids


def choose(page: Page, name: str, value: str) -> None:
    """Click what stands over the radio button, once it has stopped moving: the page scrolls smoothly."""
    page.click(f"input[name={name}][value='{value}'] + span")
    expect(page.locator(f"input[name={name}][value='{value}']")).to_be_checked()


def names_on(page: Page) -> list[int]:
    texts = page.locator("#cards .mark").evaluate_all("nodes => nodes.map(node => node.getAttribute('aria-label'))")
    return [int(text.rpartition(" ")[2]) for text in texts]


def test_it_opens_on_the_most_suspicious_and_pages_through_them(page: Page, run: SyntheticRun) -> None:
    expected = order(run)
    assert names_on(page) == expected[:48]
    expect(page.locator("#page")).to_have_text(f"1–48 of {len(expected)}")
    page.click(".headline [data-turn='1']")
    assert names_on(page) == expected[48:96]
    page.keyboard.press("p")
    assert names_on(page) == expected[:48]
    shown = page.locator("#cards img").evaluate_all(
        "nodes => Promise.all(nodes.slice(0, 4).map((node) => node.decode().then(() => node.naturalWidth)))"
    )
    assert shown == [88] * 4


def test_it_filters_sorts_and_finds(page: Page, run: SyntheticRun) -> None:
    labels = run.findings.labels_N
    page.select_option("#given", label=NAMES[2])
    assert names_on(page) == [i for i in order(run) if labels[i] == 2][:48]
    page.select_option("#given", "any")
    page.select_option("#sort", "id")
    assert names_on(page) == sorted(order(run))[:48]
    choose(page, "kind", "uncertain")
    page.select_option("#sort", "uncertainty")
    by_uncertainty = np.argsort(-run.findings.uncertainty_N, kind="stable")[:10].tolist()
    assert set(names_on(page)[:10]) == set(by_uncertainty)
    choose(page, "kind", "all")
    page.fill("#find", f"face_{by_uncertainty[0]:07d}")
    assert names_on(page) == [by_uncertainty[0]]
    page.fill("#find", "nobody")
    expect(page.locator("#nothing")).to_be_visible()


def test_the_detail_says_everything_of_the_chosen_sample(page: Page, run: SyntheticRun) -> None:
    sample = order(run)[3]
    page.locator("#cards .open").nth(3).click()
    detail = page.locator("#detail")
    expect(detail.locator("dd").nth(5)).to_have_text(f"face_{sample:07d}")
    expect(detail.locator(".title span").first).to_have_text(NAMES[run.findings.labels_N[sample]])
    expect(detail.locator(".near li")).to_have_count(5)
    assert detail.locator("tbody th").all_text_contents() == list(NAMES)
    page.keyboard.press("z")
    assert page.locator("#near-by .near li").count() == 5


def test_marked_samples_are_exported_and_become_a_version(page: Page, run: SyntheticRun, tmp_path: Path) -> None:
    ids, found = order(run), run.findings
    page.locator("#cards .mark").nth(0).click()
    page.locator("#cards .open").nth(1).click()
    page.keyboard.press("2")
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    expect(page.locator("#mark-count")).to_have_text("2 marked")
    choose(page, "kind", "marked")
    assert sorted(names_on(page)) == sorted(ids[:2])
    page.fill("#reviewer", "Ann-Marie, 2")
    with page.expect_download() as download:
        page.click("#export")
    assert download.value.suggested_filename == "marked-first-Ann_Marie_2.csv"
    path = tmp_path / "marked.csv"
    download.value.save_as(path)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    proposed = {ids[0]: int(found.proposed_N[ids[0]]), ids[1]: 1}
    assert [{**row, "uncertainty": float(row["uncertainty"])} for row in rows] == [
        {
            "id": str(i),
            "key": f"face_{i:07d}",
            "given_label": NAMES[found.labels_N[i]],
            "proposed_label": NAMES[proposed[i]],
            "uncertainty": pytest.approx(found.uncertainty_N[i], abs=6e-4),
            "reviewer": "Ann-Marie, 2",
        }
        for i in sorted(proposed)
    ]
    corrections = read_corrections([str(path)], run.dataset)
    assert corrections.reviewers_M == [["Ann-Marie, 2"]] * 2
    relabel(Dataset.open(run.dataset.uri), "v1", corrections)
    labels = Dataset.open(f"{run.dataset.uri}/versions/v1").columns(["label"])["label"].to_numpy()
    changed = {i: label for i, label in proposed.items() if label != found.labels_N[i]}
    assert {int(i): int(labels[i]) for i in np.flatnonzero(labels != found.labels_N)} == changed
    assert Dataset.open(f"{run.dataset.uri}/versions/v1").info.source["relabelled"] == len(changed)


def kept(page: Page) -> list[list[int]]:
    """Ids and labels in the browser's store, whichever page marked them."""
    [text] = page.evaluate("Object.entries(localStorage).filter(([key]) => key.startsWith('ldlva-marks-'))")
    return sorted(json.loads(text[1]))


def test_marks_of_other_reports_and_other_tabs_are_kept(page: Page, address: str, run: SyntheticRun) -> None:
    first, second = order(run)[:2]
    proposed = run.findings.proposed_N
    shown = page.evaluate("JSON.parse(document.getElementById('data').textContent).samples.id")
    elsewhere = next(i for i in range(500) if i not in shown)
    page.locator("#cards .mark").nth(0).click()
    page.evaluate(  # as the report of another run on this data version keeps it
        """id => Object.entries(localStorage).forEach(([key, text]) =>
            localStorage.setItem(key, JSON.stringify([...JSON.parse(text), [id, 2]])))""",
        elsewhere,
    )
    tab = page.context.new_page()
    tab.goto(address)
    expect(tab.locator("#mark-count")).to_have_text("1 marked")
    tab.locator("#cards .mark").nth(1).click()
    expect(page.locator("#mark-count")).to_have_text("2 marked")  # heard of it
    page.locator("#cards .mark").nth(0).click()
    expect(tab.locator("#mark-count")).to_have_text("1 marked")
    assert kept(page) == sorted([[second, int(proposed[second])], [elsewhere, 2]])
    page.locator("#cards .mark").nth(0).click()
    everything = sorted([[first, int(proposed[first])], [second, int(proposed[second])], [elsewhere, 2]])
    assert kept(page) == everything


def test_the_whole_list_is_reviewed_by_keys_alone(page: Page, run: SyntheticRun) -> None:
    ids, found = order(run), run.findings
    wanted: dict[int, int] = {}
    for place, sample in enumerate(ids):
        key = "yx3j"[place % 4]
        page.keyboard.press(key)
        if key != "j":
            wanted[sample] = {"y": int(found.proposed_N[sample]), "x": int(found.labels_N[sample]), "3": 2}[key]
    assert kept(page) == sorted([sample, label] for sample, label in wanted.items())
    expect(page.locator("#review-count")).to_have_text(f"{len(wanted)} of {len(ids)} decided")
    expect(page.locator("#page")).to_have_text(f"{len(ids) // 48 * 48 + 1}–{len(ids)} of {len(ids)}")
    last = [sample for sample in ids if sample in wanted][-60:]
    for _ in last:
        page.keyboard.press("u")
    assert kept(page) == sorted([sample, label] for sample, label in wanted.items() if sample not in last)
    chosen = page.locator("#cards [aria-current=true] .mark")
    expect(chosen).to_have_attribute("aria-label", f"mark sample {last[0]}")
    page.keyboard.press("k")
    expect(chosen).to_have_attribute("aria-label", f"mark sample {ids[ids.index(last[0]) - 1]}")
    page.keyboard.press("x")
    decided = page.locator(f"#cards li:has([aria-label='mark sample {ids[ids.index(last[0]) - 1]}']) .decision")
    expect(decided).to_have_text("as given")


def test_undo_leaves_what_another_tab_has_changed_since(page: Page, address: str, run: SyntheticRun) -> None:
    first = order(run)[0]
    page.keyboard.press("1")
    tab = page.context.new_page()
    tab.goto(address)
    tab.wait_for_selector("html[data-ready]", state="attached")
    tab.keyboard.press("2")
    expect(page.locator("#cards .decision").first).to_have_text(NAMES[1])
    page.keyboard.press("u")
    assert kept(page) == [[first, 1]]
    tab.keyboard.press("u")
    assert kept(page) == [[first, 0]]


def test_pairs_of_classes_are_counted_and_filter_the_samples(page: Page, run: SyntheticRun) -> None:
    found = run.findings
    pairs = zip(found.labels_N.tolist(), found.proposed_N.tolist(), strict=True)
    [((given, proposed), most)] = Counter(pair for pair in pairs if pair[0] != pair[1]).most_common(1)
    first = page.locator("#pair-list button").first
    expect(first).to_have_text(f"{NAMES[given]}→{NAMES[proposed]}{most}")
    first.click()
    expect(first).to_have_attribute("aria-pressed", "true")
    shown = page.evaluate("JSON.parse(document.getElementById('data').textContent).samples.id")
    is_pair_N = (found.labels_N == given) & (found.proposed_N == proposed)
    expected = sorted((i for i in shown if is_pair_N[i]), key=lambda i: found.rank_N[i])
    assert len(expected) > 1
    assert names_on(page) == expected[:48]
    first.click()
    expect(first).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#page")).to_have_text(f"1–48 of {len(shown)}")


def test_a_group_of_a_column_filters_the_samples_and_its_name_is_no_markup(page: Page, run: SyntheticRun) -> None:
    rows = page.locator(".groups tbody tr")
    assert rows.locator("th").all_text_contents() == sorted(SOURCES)  # as many samples of each
    proposed_N = run.findings.proposed_N != run.findings.labels_N
    doubted = proposed_N[1::3].sum() / len(proposed_N[1::3])
    expect(rows.first.locator("td").last).to_contain_text(f"{doubted:.1%}")
    rows.first.get_by_role("button").click()
    ids = names_on(page)
    assert len(ids) == 48
    assert all(i % 3 == 1 for i in ids)
    expect(page.locator("#only")).to_have_text("source: <b>film</b> ✕")
    page.click("#only")
    assert any(i % 3 != 1 for i in names_on(page))
    expect(page.locator("#only")).to_be_hidden()
    assert page.locator("b", has_text="film").count() == 0
    assert page.locator("b", has_text="Sad").filter(has_not_text="</script>").count() == 0  # a class is named so


def test_groups_of_copies_are_shown_and_lead_to_their_samples(page: Page) -> None:
    groups = page.locator(".copy-group")
    expect(groups).to_have_count(2)
    first = groups.first
    expect(first.locator("p")).to_have_text("3 near copies, different labels, across splits")
    assert first.locator("img").count() == 3
    assert groups.nth(1).locator("img").count() == 1
    members = first.locator("li")
    assert [text.replace(NAMES[2], "2").replace(NAMES[1], "1") for text in members.all_text_contents()] == [
        "1trainface_0000020",
        "2trainface_0000021",
        "1testface_0000022",
    ]
    expect(members.nth(2).get_by_role("button")).to_have_count(0)
    members.nth(1).get_by_role("button").click()
    assert sorted(names_on(page)) == [20, 21]
    expect(page.locator("#cards [aria-current=true] .mark")).to_have_attribute("aria-label", "mark sample 21")
    choose(page, "kind", "copied")
    assert sorted(names_on(page)) == [20, 21]
    page.click("#only")
    choose(page, "copies", "across splits")
    expect(groups).to_have_count(1)


def test_it_prints_without_controls_on_white_and_nothing_is_cut_off(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 760, "height": 1000}, color_scheme="dark")
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("html[data-ready]", state="attached")
    page.emulate_media(media="print", color_scheme="dark")
    for hidden in (".top", "#samples .controls", "#review", "#detail", ".pager >> nth=0"):
        expect(page.locator(hidden)).to_be_hidden()
    for there in ("#cards", ".diagrams", "#pair-list", "#copy-groups"):
        expect(page.locator(there)).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    cut = """nodes => nodes.filter((node) => node.scrollHeight > node.clientHeight + 1).map((node) => node.className)"""
    assert page.locator(".scroll, #pair-list, #copy-groups").evaluate_all(cut) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 760
    assert page.pdf(format="A4").startswith(b"%PDF")
    context.close()


def test_the_plane_is_drawn_and_zooms_to_a_neighbourhood(page: Page) -> None:
    inked = """canvas => {
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return pixels.filter((value, i) => i % 4 === 3 && value > 0).length;
    }"""
    page.locator("#plane").scroll_into_view_if_needed()
    expect(page.locator("#plane-note")).to_have_text("500 samples")
    assert page.locator("#canvas").evaluate(inked) > 1000
    before = page.locator("#canvas").evaluate("c => c.toDataURL()")
    page.click("#zoom-near")
    choose(page, "colour", "uncertainty")
    expect(page.locator("#legend")).to_contain_text("uncertain")
    page.locator("#canvas").evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    assert page.locator("#canvas").evaluate("c => c.toDataURL()") != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen(browser: Browser, address: str, scheme: Literal["light", "dark"]) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("html[data-ready]", state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    expect(page.locator("#detail")).to_be_hidden()
    page.locator("#cards .open").first.click()
    expect(page.locator("#detail")).to_be_visible()
    page.click("#detail .close")
    expect(page.locator("#detail")).to_be_hidden()
    context.close()


FORMULAS = ("=1+1", "+2", "-3", "@SUM(4)", "\t=5", "'=6", " =7", "'a", "it's, so", "\uff1d1", '-"x"')


def test_what_begins_as_a_formula_is_text_in_the_export_and_itself_in_the_version(
    browser: Browser, run: SyntheticRun, tmp_path: Path
) -> None:
    """In a data set of its own, whose keys and class names are what spreadsheets run."""
    names = tuple(FORMULAS[:7])
    info = replace(run.dataset.info, class_names=names)
    ids = order(run)[: len(FORMULAS)]
    keys = run.dataset.columns(["key"])["key"].to_pylist()
    for sample, key in zip(ids, FORMULAS, strict=True):
        keys[sample] = key
    dataset = shutil.copytree(run.dataset.uri, tmp_path / "faces")
    table = run.dataset.columns(run.dataset.column_names())
    place = table.column_names.index("key")
    write_manifest(str(dataset), table.set_column(place, "key", [keys]))
    hostile = replace(run, dataset=Dataset(str(dataset), info))
    page = browser.new_page()
    page.goto(written(hostile, tmp_path / "report.html"))
    choose(page, "kind", "all")
    for sample in ids:
        page.fill("#find", str(sample))
        page.locator("#cards .mark").click()
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(tmp_path / "marked.csv")
    page.close()
    with open(tmp_path / "marked.csv", newline="", encoding="utf-8") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [cell for cell in cells if cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\uff1d"))]
    found = read_corrections([str(tmp_path / "marked.csv")], hostile.dataset)
    assert found.ids_M.tolist() == sorted(ids)
    assert found.keys_M == [keys[i] for i in sorted(ids)]
    assert found.given_M.tolist() == run.findings.labels_N[found.ids_M].tolist()
    assert found.decided_M.tolist() == run.findings.proposed_N[found.ids_M].tolist()


BROKEN = {
    "no JSON": "{[",
    "an object": '{"a": 1}',
    "other lists": '[1, null, "ab", [], [1], [1, 2, 3], ["x", 1], [0, 99], [0, -1], [0, 0.5], [0, "1"], [{}, {}]]',
}
FORBIDDEN = {
    "denied": "get() { throw new DOMException('denied', 'SecurityError'); }",
    "missing": "get() { return null; }",
    "full": """get() { return { getItem: () => null,
        setItem: () => { throw new DOMException('full', 'QuotaExceededError'); } }; }""",
}


@pytest.mark.parametrize("entry", BROKEN.values(), ids=BROKEN)
def test_a_broken_entry_in_the_browsers_store_counts_for_nothing(
    browser: Browser, address: str, run: SyntheticRun, entry: str
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    page.evaluate("entry => localStorage.setItem('ldlva-marks-' + '0'.repeat(16), entry)", entry)
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert names_on(page) == order(run)[:48]
    expect(page.locator("#mark-count")).to_have_text("0 marked")
    expect(page.locator("#not-kept")).to_be_hidden()
    page.locator("#cards .mark").nth(0).click()
    expect(page.locator("#mark-count")).to_have_text("1 marked")
    page.reload()
    expect(page.locator("#mark-count")).to_have_text("1 marked")
    context.close()


@pytest.mark.parametrize("store", FORBIDDEN.values(), ids=FORBIDDEN)
def test_where_the_browser_keeps_nothing_the_page_works_and_says_so(
    browser: Browser, address: str, run: SyntheticRun, store: str
) -> None:
    page = browser.new_page()
    page.add_init_script(f"Object.defineProperty(window, 'localStorage', {{ {store} }})")
    page.goto(address)
    page.wait_for_selector("html[data-ready]", state="attached")
    assert names_on(page) == order(run)[:48]
    for place in (0, 1):
        page.locator("#cards .mark").nth(place).click()
    expect(page.locator("#mark-count")).to_have_text("2 marked")
    expect(page.locator("#not-kept")).to_be_visible()
    with page.expect_download() as download:
        page.click("#export")
    assert len(Path(download.value.path()).read_text().splitlines()) == 3
    page.close()


def test_three_hundred_classes_are_shown_by_their_likeliest(
    browser: Browser, run: SyntheticRun, tmp_path: Path
) -> None:
    """None is in doubt: the page opens on what there is."""
    count, found = 300, run.findings
    probs_NC = np.full((500, count), 0.4 / (count - 1), np.float32)
    probs_NC[np.arange(500), found.labels_N + 290] = 0.6
    labels_N = found.labels_N + 290
    sure = replace(
        found,
        probs_NC=probs_NC,
        aggregated_NC=probs_NC,
        labels_N=labels_N,
        proposed_N=labels_N,
        expected_C=np.zeros(count),
    )
    names = tuple(f"{'x' * 290}{i}" for i in range(count))
    counts = {**run.dataset.info.class_counts, "train": tuple(np.bincount(labels_N, minlength=count).tolist())}
    info = replace(run.dataset.info, class_names=names, class_counts=counts)
    page = browser.new_page(viewport={"width": 360, "height": 740})
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(written(replace(run, findings=sure, dataset=replace(run.dataset, info=info)), tmp_path / "report.html"))
    page.wait_for_selector("html[data-ready]", state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("input[name=kind]:checked").get_attribute("value") == "uncertain"
    page.locator("#cards .open").first.click()
    rows = page.locator("#detail .distributions tbody tr")
    expect(rows).to_have_count(25)
    expect(rows.last.locator("th")).to_have_text("276 others")
    expect(rows.last.locator("td").first).to_have_text("38%")  # 1 - .6 - 23 x .001
    expect(page.locator("#detail .distributions tr.given td").first).to_have_text("60%")
    page.close()
    assert wrong == []
