#!/usr/bin/env bash
# What one would guess: ray.cluster_utils.AutoscalingCluster, a DeveloperAPI that Ray's documentation points to for tests of
#   autoscaling, can be made from an installed Ray; and a test's cluster begins and ends with its own processes.
# Versions: ray 2.60.0, Python 3.11, Linux. Date: 2026-11-29.
# Behaviour: its constructor opens autoscaler/_private/fake_multi_node/example.yaml, which the wheel does not have:
#   FileNotFoundError for every argument. The autoscaler's own process opens the same file for providers of the type
#   fake_multinode and ends, which ends the head. And start() and shutdown() would run `ray stop --force`, which kills
#   every Ray process of the machine, also those of other clusters.
# Why it matters: what grows a cluster cannot be tested from a wheel. A provider of the type "external" whose module is
#   FakeMultiNodeProvider needs no file: testing/clusters/autoscaling.py.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "ray[default]==2.60.0"
"$folder/venv/bin/python" - <<'P'
import inspect, sys
import ray
from ray.cluster_utils import AutoscalingCluster

try:
    AutoscalingCluster(head_resources={"CPU": 0}, worker_node_types={})
    missing = ""
except FileNotFoundError as error:
    missing = error.filename.rpartition("/site-packages/")[2]
stops = ["stop" in inspect.getsource(method) for method in (AutoscalingCluster.start, AutoscalingCluster.shutdown)]
print(f"ray {ray.__version__}: the wheel has no {missing or '(it does now)'}; `ray stop --force` in start, shutdown: {stops}")
sys.exit(0 if missing.endswith("fake_multi_node/example.yaml") and all(stops) else 1)
P
