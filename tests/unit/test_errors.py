"""No message shows a password, a signature or a token, whoever made the text."""

import pickle

import pytest

from ldlva_dist.doctor.finding import Finding
from ldlva_dist.errors import ClusterError, SettingError, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('Could not connect to "http://u:SECRET@h:9/b?list-type=2"', 'Could not connect to "http://***@h:9/b?list-type=2"'),
        ("https://u:p%40SECRET%2F@h/", "https://***@h/"),
        ("http://u:p@SECRET@h:80", "http://***@h:80"),
        ("http://u:SEC/RET@h:80 failed", "http://***@h:80 failed"),
        ("socks5://SECRET@h:80", "socks5://***@h:80"),
        ("/b/k?X-Amz-Algorithm=A&X-Amz-Credential=SECRET%2F2026&X-Amz-Signature=SECRET (Caused by",
         "/b/k?X-Amz-Algorithm=A&X-Amz-Credential=***&X-Amz-Signature=*** (Caused by"),
        ("?X-Amz-Security-Token=SECRET%2F%3D&x=1", "?X-Amz-Security-Token=***&x=1"),
        ("?AWSAccessKeyId=SECRET&Signature=SECRET&Expires=1", "?AWSAccessKeyId=***&Signature=***&Expires=1"),
        ("http://h:9000/b/key@2x.jpg and s3://b/key@v1", "http://h:9000/b/key@2x.jpg and s3://b/key@v1"),
        ("somebody@example.org: no secret", "somebody@example.org: no secret"),
    ],
)  # fmt: skip
def test_what_is_secret_is_not_shown_and_the_rest_is(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


def test_every_error_and_every_finding_is_redacted() -> None:
    for kind in (SettingError, ClusterError):
        error = pickle.loads(pickle.dumps(kind("the store failed at http://u:SECRET@h")))
        assert str(error) == "the store failed at http://***@h"
    found = Finding(area="a", check="c", level="ok", found="http://u:SECRET@h", cure="x 'https://u:SECRET@h'")
    assert (found.found, found.cure) == ("http://***@h", "x 'https://***@h'")
