"""Ray: who may use it, and whether it answers; a cluster that RAY_ADDRESS names, or one started here for the look."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from ldlva_dist.doctor.finding import Finding, Look
from ldlva_dist.errors import LdlvaError
from ldlva_dist.runtime import placement
from ldlva_dist.runtime.interfaces import nodes_without_interface
from ldlva_dist.storage.reachable import why_unreachable

TOKEN = Path("~/.ray/auth_token")
NODES_LIMIT_S = 60.0
"""For all nodes' answers together; the look has 120 s."""


def look_at_tokens() -> Look:
    """Whether the cluster asks for a token, and whether others can read it."""
    return Look(findings=tuple(check_tokens(os.environ, TOKEN.expanduser())))


def check_tokens(environment: Mapping[str, str], default: Path) -> list[Finding]:
    """By Ray's own order: RAY_AUTH_TOKEN, the file of RAY_AUTH_TOKEN_PATH, the file in the user's home."""
    mode, address = environment.get("RAY_AUTH_MODE", "").lower(), environment.get("RAY_ADDRESS")
    if mode == "disabled":
        said = "RAY_AUTH_MODE is 'disabled': whoever reaches the ports runs programs as this user"
        return [_problem("token", said, "unset RAY_AUTH_MODE, or export RAY_AUTH_MODE=token on head and clients")]
    if environment.get("RAY_AUTH_TOKEN"):
        said = "is in RAY_AUTH_TOKEN, which every process of this user can read"
        cure = "put it into a file (chmod 600) and export RAY_AUTH_TOKEN_PATH=FILE"
        return [Finding(area="cluster", check="token", level="warning", found=said, cure=cure)]
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or default)
    if not path.exists() or not path.stat().st_size:
        if mode != "token" and not address and "RAY_AUTH_TOKEN_PATH" not in environment:
            return [_ok("token", "none yet; Ray makes one for clusters that jobs start on this machine")]
        said = f"there is none in {path}"
        return [_problem("token", said, "cluster/local.sh makes one; or ray get-auth-token --generate, and copy it")]
    if _others_can_read(path):
        said = f"{path} can be read by others ({stat.S_IMODE(path.stat().st_mode):o})"
        return [_problem("token", said, f"chmod 600 {path}")]
    if not mode and address:
        said = f"is there ({path}), but RAY_AUTH_MODE is not set: the cluster at {address} may ask nobody for it"
        cure = "export RAY_AUTH_MODE=token on head and clients, as cluster/local.sh does"
        return [Finding(area="cluster", check="token", level="warning", found=said, cure=cure)]
    return [_ok("token", f"{path}, readable by this user only")]


def _others_can_read(path: Path) -> bool:
    """Whether the group or everybody may read a file, and may pass through all folders on the way to it."""
    ways = ((stat.S_IRGRP, stat.S_IXGRP), (stat.S_IROTH, stat.S_IXOTH))
    folders = [folder.stat().st_mode for folder in path.resolve().parents]
    return any(path.stat().st_mode & read and all(mode & enter for mode in folders) for read, enter in ways)


def look_at_ray() -> Look:
    """Join the cluster, or start one; facts ``ray_gpus``, ``ray_nodes`` and ``ray_is_local``."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith("http"):
        return _look_at_dashboard(address)
    try:
        placement.connect()
    except LdlvaError as error:
        return Look(findings=(_problem("Ray", str(error), _cure(address)),))
    total, nodes = ray.cluster_resources(), [node for node in ray.nodes() if node["Alive"]]
    found = (
        f"{'joined ' + address if address else 'started here'}: {len(nodes)} nodes, {total.get('CPU', 0):g} CPUs, "
        f"{total.get('GPU', 0):g} GPUs, object store {total.get('object_store_memory', 0) / 1e9:.1f} GB"
    )
    collectives = _look_at_interfaces() if address else []
    facts: dict[str, Any] = {"ray_gpus": total.get("GPU", 0), "ray_nodes": len(nodes), "ray_is_local": not address}
    ray.shutdown()
    return Look(findings=(_ok("Ray", found), *collectives), facts=facts)


def _look_at_interfaces() -> list[Finding]:
    """Whether gloo and NCCL of each node will use the network that Ray uses."""
    try:
        wrong = nodes_without_interface(NODES_LIMIT_S)
    except RayError as error:
        return [_problem("interfaces", f"a node does not run a task: {_first_line(error)}", _cure(""))]
    cure = "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME on that node, or start Ray there with --node-ip-address"
    if wrong:
        return [_problem("interfaces", f"node {address}: {why}", cure) for address, why in wrong.items()]
    return [_ok("interfaces", "gloo and NCCL use the interface of Ray's address on every node")]


def _look_at_dashboard(address: str) -> Look:
    from ray.job_submission import JobSubmissionClient

    why = why_unreachable(address)
    if why:
        return Look(findings=(_problem("Ray", f"RAY_ADDRESS: {why}", _cure(address)),))
    try:
        version = JobSubmissionClient(address).get_version()
    except (ConnectionError, RuntimeError) as error:
        return Look(findings=(_problem("Ray", _first_line(error), _cure(address)),))
    return Look(findings=(_ok("Ray", f"{address} takes jobs (API {version})"),))


def _cure(address: str) -> str:
    if not address:
        return "see the logs in RAY_TMPDIR/ray/session_latest/logs (/tmp/ray by default)"
    return f"is the head at {address} up (cluster/local.sh), of this Ray's version, and does it know this token?"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def _ok(check: str, found: str) -> Finding:
    return Finding(area="cluster", check=check, level="ok", found=found)


def _problem(check: str, found: str, cure: str) -> Finding:
    return Finding(area="cluster", check=check, level="problem", found=found, cure=cure)
