"""cluster/slurm.sh in an allocation of two hosts; `make hosts` runs it."""

import subprocess

from testing.hosts.cluster import ADDRESSES, HostCluster
from testing.hosts.slurm import slurm_hosts
from testing.hosts.spaces import ROOT, command_of, wait_for

LIMIT_S, END_S = 240.0, 30.0
NODES = "h1", "h2"
JOB = """
import sys
from ldlva_dist.runtime.connect import connect
connect()
import ray
while sum(node["Alive"] for node in ray.nodes()) < 2:
    pass
print("nodes:", sorted(node["NodeManagerAddress"] for node in ray.nodes()))
sys.exit(3)
"""


def test_the_job_of_an_allocation_has_its_hosts_and_its_exit_code_comes_back(hosts: HostCluster) -> None:
    assert hosts.shared
    environment = hosts.environment(
        SLURM_JOB_ID="7",
        SLURM_JOB_NODELIST="h[1-2]",
        SLURM_CPUS_PER_TASK="1",
        SLURM_SUBMIT_DIR=str(hosts.shared),
        LDLVA_SLURM_PORT="23456",
    )
    environment["PATH"] = f"{hosts.shared}:{environment['PATH']}"
    with slurm_hosts(hosts.hosts, NODES, hosts.shared):
        command = [str(ROOT / "cluster" / "slurm.sh"), "python", "-c", JOB]
        script = hosts.hosts["h1"].popen(command, environment, subprocess.PIPE)
        said = script.communicate(timeout=LIMIT_S)[0].decode()
    assert script.returncode == 3, said
    assert f"nodes: {[ADDRESSES[name] for name in NODES]}" in said
    assert not list(hosts.shared.glob(".slurm-token-*"))
    wait_for(lambda: not _left_over(hosts), "end of the cluster", END_S)


def _left_over(hosts: HostCluster) -> list[str]:
    lines = [command_of(process) for name in NODES for process in hosts.hosts[name].processes()]
    return [line for line in lines if "/ldlva-ray-7/" in line]
