"""Text without the secrets that addresses carry: passwords before a host, signatures and tokens of signed requests."""

import re

_PARTS = (
    # user:password@ in any address, then one whose password has a slash in it; a port is no password
    re.compile(r"""(://)[^/\s"'?#]*@"""),
    re.compile(r"""(https?://)[^\s"'/@:]*:(?!\d*/)[^\s"']*@"""),
    re.compile(r"""(\b(?:X-Amz-Signature|X-Amz-Security-Token|X-Amz-Credential|Signature|AWSAccessKeyId)=)[^&\s"']*"""),
)


def redact(text: str) -> str:
    """The same text with *** where a secret stood."""
    for part in _PARTS:
        text = part.sub(lambda found: f"{found[1]}***{'@' if found[0].endswith('@') else ''}", text)
    return text
