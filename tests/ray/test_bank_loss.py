"""Bank shards of a node that is lost; runs that lose a bank actor are in faults/."""

import os
import subprocess
import sys

NODE_LOSS = """
import sys, time
import numpy as np, ray
from ray.cluster_utils import Cluster
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.messages import BankUpdate
from ldlva_dist.bank.client import NeighborClient
from ldlva_dist.bank.records import BankSpec
from ldlva_dist.bank.service import shard_loads, start_service

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1, resources={"bank": 1})
ray.init(address=cluster.address, log_to_driver=False)
options = {"num_cpus": 0, "max_restarts": -1, "resources": {"bank": 0.1}}
spec = BankSpec(num_classes=7, feature_width=2, timeout_s=60)
loads = shard_loads(Dataset.open(sys.argv[1]), k=4, num_shards=2)
service = start_service("nodes", loads, spec, options, reload=dict)
client = NeighborClient(service, rank=0, world_size=1, token="a", k=4, timeout_s=60)
client.begin(0)
ids = np.arange(service.bounds[-1])
lost, deadline = "", time.monotonic() + 60
# A process of a lost node can answer for seconds; what comes after the loss is seen is watched for two more reads.
while not ("1" in lost[5:] and lost.endswith("00")) and time.monotonic() < deadline:
    step, rows = len(lost), len(ids)
    lookup = client.find(step, ids).ask().collect()
    lost += "01"[bool((lookup.neighbors.versions == -1).any())]
    lookup.write(BankUpdate(step=step, positions=np.arange(rows, dtype=np.int32), ids=ids,
        probs=np.ones((rows, 7), np.float32), features=np.ones((rows, 2), np.float32)))
    if step == 4:
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1, resources={"bank": 1})
print("lost:", lost, flush=True)
ray.shutdown()
cluster.shutdown()
"""


def test_shards_of_a_lost_node_start_again_on_another_and_the_run_goes_on(faces: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NODE_LOSS, faces], capture_output=True, text=True, timeout=240, env=_environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lost = next(line for line in done.stdout.splitlines() if line.startswith("lost: ")).removeprefix("lost: ")
    assert lost[:5] == "11000", "nothing is there for the reads of steps 0 and 1"
    assert "1" in lost[5:]
    assert lost.endswith("00"), "what is written after the loss is there again"


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
