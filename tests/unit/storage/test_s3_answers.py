"""Odd but valid answers of a store: the bytes are the right ones, or one sentence says why there are none."""

import io
import re
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ldlva_dist import storage
from ldlva_dist.errors import ClusterError, DataError, SettingError
from ldlva_dist.storage import s3
from ldlva_dist.storage.s3.errors import clear_error

DATA = bytes(range(256)) * 4096


class Store(ThreadingHTTPServer):
    """A store of one object on loopback; ``odd`` says what its answers lack, ``seen`` what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.odd: set[str] = set()
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.data = DATA


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: object) -> None: ...

    def do_GET(self) -> None:
        odd, data = self.server.odd, self.server.data
        self.server.seen.append((self.path, dict(self.headers)))
        status = 200
        headers: dict[str, str | None] = {"ETag": '"one"'}
        wanted = self.headers.get("Range")
        if wanted and "no ranges" not in odd:
            first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
            status, headers["Content-Range"] = 206, f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
            data = data[first : last + 1]
        for kind, change in (("no ETag", None), ("weak ETag", 'W/"one"'), ("bare ETag", "one")):
            if kind in odd:
                headers["ETag"] = change
        if "no Content-Range" in odd:
            headers.pop("Content-Range", None)
        if self.headers.get("If-Match") not in (None, '"one"', "one"):
            status, data = 412, b""
        self.answer(status, data, {name: value for name, value in headers.items() if value})

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        odd, sent = self.server.odd, data
        if "breaks once" in odd and len(data) > 1:
            odd.discard("breaks once")
            sent = data[: len(data) // 2]
            self.server.data = bytes(reversed(DATA)) if "changes" in odd else DATA
            self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        chunked = "no Content-Length" in odd
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(data)))))
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(sent), sent) if chunked else sent)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, b"", {})

    def do_DELETE(self) -> None:
        self.answer(204, b"", {})

    def do_POST(self) -> None:
        self.answer(200, b"<R><UploadId>u</UploadId></R>", {"Content-Type": "application/xml"})


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with Store() as server:
        Thread(target=server.serve_forever, args=(0.05,)).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setenv("LDLVA_S3_LIMIT_S", "5")
        yield server
        server.shutdown()


@pytest.mark.parametrize("etag", ["no ETag", "weak ETag", "bare ETag", ""])
@pytest.mark.parametrize("broken", ["breaks once", ""])
def test_a_store_without_a_strong_etag_gives_the_same_bytes_over_a_broken_connection(
    store: Store, etag: str, broken: str
) -> None:
    store.odd = {etag, broken}
    assert storage.read_bytes("s3://b/k") == DATA
    store.odd = {etag, broken}
    assert storage.read_range("s3://b/k", 1000, 5000) == DATA[1000:6000]
    with storage.open_input("s3://b/k") as file:
        file.seek(-10, 2)
        assert file.read() == DATA[-10:]


def test_an_object_that_changes_meanwhile_is_never_mixed(store: Store) -> None:
    store.odd = {"no ETag", "breaks once", "changes"}
    assert storage.read_bytes("s3://b/k") == bytes(reversed(DATA))


@pytest.mark.parametrize(
    ("odd", "sentence"),
    [("no ranges", "not the range it was asked for"), ("no Content-Range", "not the range it was asked for")],
)
def test_an_answer_that_is_not_the_range_is_refused(store: Store, odd: str, sentence: str) -> None:
    store.odd = {odd}
    with pytest.raises(ClusterError, match=f"s3://b/k: .*{sentence}"):
        storage.read_range("s3://b/k", 1000, 5000)
    store.odd = {"no ranges"}
    assert s3.object_size("s3://b/k") == len(DATA)


def test_an_answer_without_its_length_is_read_by_its_range_or_refused(store: Store) -> None:
    store.odd = {"no Content-Length"}
    assert storage.read_range("s3://b/k", 1000, 5000) == DATA[1000:6000]
    with pytest.raises(ClusterError, match=r"s3://b/k: it does not say how many bytes it sends"):
        storage.read_bytes("s3://b/k")


def test_an_object_that_ends_early_is_said_to(store: Store) -> None:
    with pytest.raises(DataError, match="ends early"):
        storage.read_range("s3://b/k", len(DATA) - 5, 10)


def test_writing_needs_an_etag_only_for_parts(store: Store) -> None:
    storage.write_bytes("s3://b/k", b"small")
    with pytest.raises(ClusterError, match="no ETag for a part"):
        s3.write_object("s3://b/k", io.BytesIO(bytes(17 << 20)), 17 << 20)


def test_a_public_bucket_is_read_without_credentials(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SettingError, match="LDLVA_S3_ANONYMOUS=1 for a public bucket, got none"):
        storage.read_bytes("s3://b/k")
    monkeypatch.setenv("LDLVA_S3_ANONYMOUS", "1")
    assert storage.read_bytes("s3://b/k") == DATA
    assert s3.object_size("s3://b/k") == len(DATA)
    for path, headers in store.seen:
        assert "Signature" not in path
        assert "Authorization" not in headers


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("LDLVA_S3_ANONYMOUS", "maybe", "LDLVA_S3_ANONYMOUS must be 1 or 0, got 'maybe'"),
        ("LDLVA_S3_LIMIT_S", "nan", "LDLVA_S3_LIMIT_S must be a number > 0 and <= 1000000, got 'nan'"),
        ("LDLVA_S3_LIMIT_S", "inf", "LDLVA_S3_LIMIT_S must be a number > 0 and <= 1000000, got 'inf'"),
        ("LDLVA_S3_LIMIT_S", "-1", "LDLVA_S3_LIMIT_S must be a number > 0 and <= 1000000, got '-1'"),
        ("LDLVA_S3_LIMIT_S", "soon", "LDLVA_S3_LIMIT_S must be a number > 0 and <= 1000000, got 'soon'"),
        *(
            ("AWS_ENDPOINT_URL", value, "AWS_ENDPOINT_URL must be http://HOST:PORT or https://HOST")
            for value in ("127.0.0.1:9000", "http://", "ftp://h:1", "http://u:SEC/RET@h:9", "http://u:SEC#RET@h", "http://h:x")
        ),
    ],
)  # fmt: skip
def test_a_variable_that_cannot_be_is_refused_and_no_part_of_a_password_is_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=re.escape(sentence)) as caught:
        storage.read_bytes("s3://b/k")
    assert not re.search("SEC|RET", str(caught.value))


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "HTTP_PROXY"])
def test_a_password_before_the_host_is_in_no_message(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "HIDDEN")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "HIDDEN")
    monkeypatch.setenv("LDLVA_S3_LIMIT_S", "0.5")
    for host in ("127.0.0.1:9", "no.such.host.invalid"):
        monkeypatch.setenv(name, f"http://somebody:HIDDEN@{host}")
        for ask in (storage.read_bytes, storage.exists, storage.list_folder, storage.check_writable):
            with pytest.raises((ClusterError, SettingError)) as caught:
                ask("s3://bucket/key")
            assert "HIDDEN" not in str(caught.value)


def test_a_clock_that_is_wrong_is_named_as_such() -> None:
    answer = {"Error": {"Code": "RequestTimeTooSkewed", "Message": "too large"}, "ResponseMetadata": {}}
    told = clear_error(ClientError(answer, "GetObject"), "s3://faces/one", "http://store")
    assert isinstance(told, SettingError)
    assert str(told).startswith(f"the clock of {socket.gethostname()} must tell the time of the store at http://store")
