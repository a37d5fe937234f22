"""Bank shards of a node that is lost; runs that lose a bank actor are in test_faults.py."""

import time
from contextlib import ExitStack

import numpy as np

from ldlva_dist.bank.client import NeighborClient
from ldlva_dist.bank.records import BankSpec
from ldlva_dist.bank.service import shard_loads, start_service
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.messages import BankUpdate
from testing.clusters.joining_nodes import another_node, lose

LIMIT_S = 60.0
HOLDS_A_BANK = {"bank": 1.0}
SHARD = {"num_cpus": 0, "max_restarts": -1, "resources": {"bank": 0.1}}


def test_shards_of_a_lost_node_start_again_on_another_and_the_run_goes_on(cluster: None, faces: str) -> None:
    """A process of a lost node can answer for seconds; what comes after the loss is seen is watched for two reads."""
    spec = BankSpec(num_classes=7, feature_width=2, timeout_s=LIMIT_S)
    loads = shard_loads(Dataset.open(faces), k=4, num_shards=2)
    lost, deadline = "", time.monotonic() + LIMIT_S
    with ExitStack() as nodes:
        node = nodes.enter_context(another_node(1, HOLDS_A_BANK))
        service = start_service("nodes", loads, spec, SHARD, reload=dict)
        nodes.callback(service.stop)
        client = NeighborClient(service, rank=0, world_size=1, token="a", k=4, timeout_s=LIMIT_S)
        client.begin(0)
        ids = np.arange(service.bounds[-1])
        while not ("1" in lost[5:] and lost.endswith("00")) and time.monotonic() < deadline:
            step, rows = len(lost), len(ids)
            lookup = client.find(step, ids).ask().collect()
            lost += "01"[bool((lookup.neighbors.versions == -1).any())]
            lookup.write(
                BankUpdate(
                    step=step,
                    positions=np.arange(rows, dtype=np.int32),
                    ids=ids,
                    probs=np.ones((rows, 7), np.float32),
                    features=np.ones((rows, 2), np.float32),
                )
            )
            if step == 4:
                lose(node)
                nodes.enter_context(another_node(1, HOLDS_A_BANK))
    assert lost[:5] == "11000", "nothing is there for the reads of steps 0 and 1"
    assert "1" in lost[5:]
    assert lost.endswith("00"), "what is written after the loss is there again"
