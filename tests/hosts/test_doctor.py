"""What the doctor says of several hosts; `make hosts` runs it."""

from testing.hosts.cluster import HostCluster
from testing.hosts.spaces import NOWHERE

LIMIT_S = 240.0


def test_the_interface_of_every_host_is_the_one_that_leads_to_the_others(hosts: HostCluster) -> None:
    """Each has a network besides that leads nowhere, and a name of its own that means 127.0.1.1."""
    _, said = hosts.run_on("h1", ["ip", "-brief", "addr"], LIMIT_S)
    assert NOWHERE in said
    job = hosts.submit("doctor", ["python", "jobs/doctor.py", "--only", "Ray", "--storage", "/tmp/doctor"])
    assert job.wait(LIMIT_S) == 0, job.said
    assert "gloo and NCCL use the interface of Ray's address on every node" in " ".join(job.said.split()), job.said
