"""Claim: the report of a 450,000-row run is a page under 30 MB that opens in under 3 s and turns its pages in 0.1 s.

The run is synthetic (testing/synthetic_run.py): a manifest of as many rows over a pool of drawn faces, and predictions
that hang together as a trained network's; choosing, reading images, encoding and writing the page are the real thing.
Opening is timed in headless Chromium, from going to the file to the first page of samples drawn, in a new context each
time, and so are turning a page and a filter over all samples. Where there is no Chromium only the page is measured.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tyro

from bench.common import report
from ldlva_dist.analysis import metrics
from ldlva_dist.analysis.label_findings import write_uncertainty
from ldlva_dist.packing.near_copies import CopyGroup
from ldlva_dist.records.uncertainty_history import write_history
from ldlva_dist.reporting.report.collect import Limits, collect, suspects
from ldlva_dist.reporting.report.overview import ReportedRun, overview
from ldlva_dist.reporting.report.page import render
from testing.browser import chromium, find_chromium
from testing.synthetic_run import SyntheticRun, synthetic_run

T = TypeVar("T")
EPOCHS = 6
COPY_GROUPS = 1840
FRAME = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How large, and how often."""

    rows: int = 450_000
    k: int = 8
    samples: int = 3000
    repeats: int = 3


def main(arguments: Arguments) -> None:
    """Make the page, open it, print one JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        run = synthetic_run(Path(folder), rows=arguments.rows, k=arguments.k)
        page, seconds = timed(lambda: make_page(run, folder, arguments.samples))
        path = Path(folder) / "report.html"
        path.write_bytes(page)
        _, table_seconds = timed(lambda: write_uncertainty(folder, run.dataset, run.findings))
        browser = find_chromium()
        opened = open_page(browser, path.as_uri(), arguments.repeats) if browser else {}
    small = len(page) < 30e6
    quick = not opened or (opened["open_s"] < 3 and opened["turn_s"] < 0.1)
    report(
        "report",
        ok=small and quick,
        rows=arguments.rows,
        page_mb=len(page) / 1e6,
        make_s=seconds,
        uncertainty_parquet_s=table_seconds,
        **opened,
    )


def make_page(run: SyntheticRun, folder: str, samples: int) -> bytes:
    """The page of a run that kept a history."""
    findings = run.findings
    for step in range(EPOCHS):
        values = np.float32(0.38) + (findings.uncertainty_N - np.float32(0.38)) * (step + 1) / EPOCHS
        write_history(f"{folder}/run", values, step=step, epoch=step + 1.0, rank=0, first_id=0)
    given = metrics.classification(findings.labels_N, findings.probs_NC, num_classes=len(run.dataset.info.class_names))
    glance = ReportedRun(
        name="run",
        facts=[("data set", run.dataset.info.name)],
        metrics=[{"epoch": i / 100, "loss": 2 - i / 1000} for i in range(1, 1200)],
        evaluation={"given": given, "split": "train", "samples": len(findings.labels_N), "steps": 1},
        class_names=run.dataset.info.class_names,
        class_counts=run.dataset.info.class_counts["train"],
        suspects=suspects(run.dataset, findings),
    )
    return render(
        overview(glance, None), collect(f"{folder}/run", run, findings, Limits(samples=samples), None, copies(run))
    )


def copies(run: SyntheticRun) -> list[CopyGroup]:
    """Groups of three, as many as FER2013 has exact repeats."""
    ids_G3 = np.random.default_rng(0).choice(len(run.findings.labels_N), (COPY_GROUPS, 3), replace=False)
    names, labels_G3 = run.dataset.info.class_names, run.findings.labels_N[ids_G3]
    return [
        CopyGroup(
            ids=ids,
            keys=[f"face_{sample:07d}" for sample in ids],
            splits=["train"] * 3,
            labels=[names[label] for label in labels],
            is_exact=False,
        )
        for ids, labels in zip(ids_G3.tolist(), labels_G3.tolist(), strict=True)
    ]


def open_page(path: str, address: str, repeats: int) -> dict[str, Any]:
    """Medians over new browser contexts, and the megabytes of the page's JavaScript heap."""
    times: dict[str, list[float]] = {"open_s": [], "turn_s": [], "filter_s": []}
    heap = 0.0
    with chromium(path) as browser:
        for _ in range(repeats):
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            began = time.perf_counter()
            page.goto(address)
            page.wait_for_selector("html[data-ready]", state="attached")
            page.evaluate(FRAME)
            times["open_s"].append(time.perf_counter() - began)
            for name, act in {
                "turn_s": "document.querySelector('.headline .pager button:last-of-type').click()",
                "filter_s": "document.querySelector('input[name=kind][value=all]').click()",
            }.items():
                timing = f"const began = performance.now(); {act}; await {FRAME}; return performance.now() - began;"
                took = page.evaluate(f"async () => {{ {timing} }}")
                times[name].append(took / 1000)
            heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
            page.close()
    return {name: statistics.median(values) for name, values in times.items()} | {"heap_mb": heap, "raw": times}


def timed(action: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and the seconds it took."""
    began = time.perf_counter()
    result = action()
    return result, time.perf_counter() - began


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
