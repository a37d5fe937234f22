"""The errors a user meets, each with the exit code its job ends with."""

import re

_SECRETS = (
    # user:password@ in any address, then one whose password has a slash in it; a port is no password
    re.compile(r"""(://)[^/\s"'?#]*@"""),
    re.compile(r"""(https?://)[^\s"'/@:]*:(?!\d*/)[^\s"']*@"""),
    re.compile(r"""(\b(?:X-Amz-Signature|X-Amz-Security-Token|X-Amz-Credential|Signature|AWSAccessKeyId)=)[^&\s"']*"""),
)


def redact(text: str) -> str:
    """Replace by *** what addresses carry of secrets: passwords, signatures and tokens.

    Args:
        text: Any text; what is no secret stays as it is.
    """
    for part in _SECRETS:
        text = part.sub(lambda found: f"{found[1]}***{'@' if found[0].endswith('@') else ''}", text)
    return text


class LdlvaError(Exception):
    """Base of all errors that a job reports as one sentence instead of a traceback; no sentence shows a password."""

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(redact(arg) if isinstance(arg, str) else arg for arg in args))


class SettingError(LdlvaError):
    """A setting the user can correct; the message names the setting, the rule and the value.

    No ValueError: tyro would put the sentence of one into a box of its own, broken over lines.
    """

    exit_code = 2


class DataError(LdlvaError):
    """Data that is missing, damaged or not what its manifest says."""

    exit_code = 3


class ClusterError(LdlvaError):
    """A worker, actor or store that died or did not answer within its limit."""

    exit_code = 4


class RunLost(ClusterError):
    """A run's folder that was deleted, or that another job took over, under the job that trained in it."""


class RunStopped(LdlvaError):
    """A run that was asked to stop and did; the same command resumes it."""

    exit_code = 130


class NeighborServiceError(ClusterError):
    """A shard of the neighbour service failed; the message names the shard and what it was asked."""


class StateLost(NeighborServiceError):
    """A shard's actor started again, and holds nothing of any attempt."""
