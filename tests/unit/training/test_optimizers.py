"""Optimisers without torch's compiler: the same numbers, and it stays out of the process."""

import subprocess
import sys

import pytest
import torch

from ldlva_dist.training.engine import build_optimizer

STEP = """
import sys
import torch
from ldlva_dist.training.engine import build_optimizer

network = torch.nn.Linear(2, 2)
optimizer = build_optimizer(network, sys.argv[1], lr=0.1, weight_decay=0.1, momentum=0.9)
network(torch.ones(1, 2)).sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_step_imports_no_compiler(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", STEP, name], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("adam", lambda groups: torch.optim.Adam(groups, lr=0.1)),
        ("adamw", lambda groups: torch.optim.AdamW(groups, lr=0.1)),
        ("sgd", lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9)),
    ],
)
def test_steps_are_those_of_torch(name: str, plain: object) -> None:
    assert callable(plain)
    after = []
    for is_ours in (True, False):
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 2)
        groups = [{"params": [network.weight], "weight_decay": 0.1}, {"params": [network.bias], "weight_decay": 0.0}]
        optimizer = build_optimizer(network, name, lr=0.1, weight_decay=0.1, momentum=0.9) if is_ours else plain(groups)
        for _ in range(3):
            optimizer.zero_grad()
            network(torch.ones(4, 3)).square().sum().backward()
            optimizer.step()
        assert network.weight.requires_grad
        after.append(network.state_dict())
    assert all(torch.equal(after[0][key], after[1][key]) for key in after[0])
