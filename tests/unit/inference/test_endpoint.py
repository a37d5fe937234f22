"""The endpoint's answers, asked without a server: a distribution for a face, a status and a sentence for the rest."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request

from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.images import encode_image
from ldlva_dist.errors import SettingError
from ldlva_dist.inference.endpoint import Endpoint, ServeSettings
from ldlva_dist.inference.export import real_images
from ldlva_dist.inference.service import app
from ldlva_dist.inference.trained import read_model
from testing.synthetic_run import synthetic_run
from testing.tiny_runs import untrained_run

Receive = Callable[[], Awaitable[dict[str, Any]]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return synthetic_run(tmp_path_factory.mktemp("set"), rows=20, pool=20, k=4, pixels=56).dataset.uri


@pytest.fixture(scope="module")
def run(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return untrained_run(dataset, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def faces(dataset: str) -> list[bytes]:
    return [encode_image(image) for image in real_images(Dataset.open(dataset), 3)]


@dataclass(frozen=True)
class Answer:
    status: int
    content: dict[str, Any]
    headers: dict[str, str]


def sender(*chunks: bytes) -> Receive:
    """A client that sends a body in pieces; to ask for more than there is is an error."""
    messages = iter([*chunks])
    left = len(chunks)

    async def receive() -> dict[str, Any]:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": next(messages), "more_body": left > 0}

    return receive


async def ask(
    asked: Endpoint,
    receive: Receive,
    *,
    method: str = "POST",
    path: str = "/predict",
    headers: dict[str, str] | None = None,
) -> Answer:
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": raw, "root_path": ""}
    response = await asked(Request(scope, receive))
    return Answer(response.status_code, json.loads(bytes(response.body)), dict(response.headers))


def endpoint(run: str, **settings: Any) -> Endpoint:
    """An endpoint whose network computes image by image."""
    model = read_model(run).build()

    async def forward(image: np.ndarray) -> tuple[np.ndarray, float, int]:
        answers = model(image[None])
        return answers.probs_nC[0], float(answers.entropy_n[0]), 1

    return Endpoint(ServeSettings(model=run, **settings), model, forward)


def answer(run: str, *chunks: bytes, **how: Any) -> Answer:
    return asyncio.run(ask(endpoint(run), sender(*chunks), **how))


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_face_gets_its_distribution(run: str, faces: list[bytes], kind: str) -> None:
    model = read_model(run).build()
    body = faces[0] if kind == "jpeg" else png(np.asarray(Image.open(io.BytesIO(faces[0]))))
    found = answer(run, body[:100], body[100:])
    expected = model(model.prepare(body)[None])
    assert found.status == 200
    assert list(found.content["probabilities"]) == list(model.description.class_names)
    np.testing.assert_allclose(list(found.content["probabilities"].values()), expected.probs_nC[0], atol=1e-6)
    assert found.content["class"] == model.description.class_names[int(expected.probs_nC[0].argmax())]
    assert found.content["entropy"] == pytest.approx(float(expected.entropy_n[0]), abs=1e-6)


BOMB = png(np.zeros((5000, 5000), np.uint8))
STRIP = png(np.zeros((1, 15_000_000), np.uint8))
GIF = b"GIF89a" + bytes(100)


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "the body must be a JPEG or PNG, got nothing"),
        (b"\xff\xd8\xff\xe0 no more", 400, "the image is damaged"),
        (b"hello", 415, "the body must be a JPEG or PNG, got something else"),
        (GIF, 415, "the body must be a JPEG or PNG, got something else"),
        (BOMB, 413, "the image must have at most 16000000 pixels, got 25000000"),
        (STRIP, 413, "the image has more than 64 million pixels, or 10000 a side: 15000000 x 1"),
        (bytes(8 * 2**20 + 1), 413, "the image must have at most 8 MiB"),
    ],
    ids=["empty", "header only", "text", "gif", "bomb", "strip", "large"],
)
def test_what_is_no_face_gets_a_status_and_a_sentence(run: str, body: bytes, status: int, sentence: str) -> None:
    found = answer(run, body)
    assert (found.status, found.content) == (status, {"error": sentence})


def test_a_jpeg_that_is_cut_off_is_refused_as_in_evaluation(run: str, faces: list[bytes]) -> None:
    found = answer(run, faces[0][: len(faces[0]) // 2])
    assert found.status == 400
    assert "cannot be decoded" in found.content["error"]


def test_a_body_that_announces_too_much_is_refused_before_it_is_read(run: str) -> None:
    found = answer(run, headers={"content-length": str(9 * 2**20)})
    assert (found.status, found.content["error"]) == (413, "the image must have at most 8 MiB")


def test_a_body_of_unknown_length_is_read_up_to_the_limit_only(run: str) -> None:
    found = answer(run, *[bytes(2**20)] * 9)  # the ninth breaks the limit; a tenth would be an error
    assert found.status == 413


def test_a_body_that_does_not_come_is_given_up(run: str) -> None:
    async def never() -> dict[str, Any]:
        return await asyncio.get_running_loop().create_future()

    found = asyncio.run(ask(endpoint(run, body_timeout_s=0.05), never))
    assert (found.status, found.content["error"]) == (408, "the image did not arrive within 0.05 s")


def test_more_requests_than_allowed_are_told_to_come_later(run: str, faces: list[bytes]) -> None:
    async def three() -> list[Answer]:
        one = endpoint(run, max_requests=1)
        began, go_on = asyncio.Event(), asyncio.Event()

        async def slowly() -> dict[str, Any]:
            began.set()
            await go_on.wait()
            return {"type": "http.request", "body": faces[0], "more_body": False}

        first = asyncio.create_task(ask(one, slowly))
        await began.wait()
        second = await ask(one, sender(faces[1]))
        go_on.set()
        return [await first, second, await ask(one, sender(faces[1]))]

    first, second, third = asyncio.run(three())
    assert (first.status, second.status, third.status) == (200, 503, 200)
    assert second.headers["retry-after"] == "1"
    assert "which is the limit; try again later" in second.content["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("GET", "/predict", 405), ("POST", "/health", 405)]
)
def test_other_paths_and_methods_are_refused(run: str, method: str, path: str, status: int) -> None:
    assert answer(run, method=method, path=path).status == status


def test_health_says_what_is_served(run: str) -> None:
    found = answer(run, method="GET", path="/health")
    assert found.status == 200
    assert found.content["model"] == "untrained"
    assert found.content["classes"][0] == "Neutral"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"model": "x", "replica": 1}, "unexpected keyword argument 'replica'"),
        ({"model": "x", "max_requests": 0}, "max_requests must be a whole number >= 1, got 0"),
    ],
)
def test_settings_that_are_none_are_refused(args: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        app(args)
