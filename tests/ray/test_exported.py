"""The gauges of a run, as a Prometheus server would read them."""

import re
import time
import urllib.request

import pytest
import ray

from ldlva_dist.records.prometheus import ExportedMetrics

pytestmark = pytest.mark.usefixtures("cluster")


def scrape() -> str:
    """All metrics of the cluster's one node; those that other tests have lost are listed too."""
    [node] = [node for node in ray.nodes() if node["Alive"]]
    with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
        return answer.read().decode()


def test_the_numbers_of_a_log_line_are_served_as_gauges_of_the_run() -> None:
    exported = ExportedMetrics("gauged")
    exported.set({"lookup_ms": 4.0, "note": "no number", "step": 7})
    exported.set({"lookup_ms": 2.5, "staleness_max": 12, "step": 8})
    end, seen = time.monotonic() + 60, {}
    while len(seen) < 2 and time.monotonic() < end:
        seen = dict(re.findall(r'^ray_(ldlva_\w+)\{[^}]*run="gauged"[^}]*\} (\S+)$', scrape(), re.MULTILINE))
        time.sleep(0.2)
    assert {name: float(value) for name, value in seen.items()} == {"ldlva_lookup_ms": 2.5, "ldlva_staleness_max": 12}
