"""The weights of an ONNX file that lie in other files: taken from the model's own folder, or refused.

onnxruntime looks for them in the current folder where it is given a model's bytes, whoever's weights lie there.
"""

import os
from collections.abc import Iterator
from typing import Any

from ldlva_dist import storage
from ldlva_dist.errors import DataError, SettingError

INSTALL = "pip install 'ldlva-dist[onnx]'"
MAX_BYTES = 2**31 - 2**20
"""Largest message of protobuf, less some room for the graph."""


def with_weights(model: bytes, uri: str) -> bytes:
    """The ONNX file that lies at ``uri``, with all of its weights inside.

    Raises:
        SettingError: for what is no ONNX file, or one that names weights elsewhere than beside it.
        DataError: for weights that are missing or cut off.
    """
    proto = _parse(model, uri)
    tensors = list(_outside(proto))
    if not tensors:
        return model
    files: dict[str, bytes] = {}
    for tensor in tensors:
        place = {entry.key: entry.value for entry in tensor.external_data}
        name = place.get("location", "")
        if name not in files:
            files[name] = _read(uri, name, room=MAX_BYTES - sum(map(len, files.values())))
        tensor.raw_data = _cut(files[name], place, f"{uri} (weights in {name})")
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return proto.SerializeToString(deterministic=True)


def require_whole(model: bytes, name: str) -> None:
    """SettingError for the bytes of an ONNX file whose weights lie in another one."""
    outside = next(_outside(_parse(model, name)), None)
    if outside is not None:
        file = next((entry.value for entry in outside.external_data if entry.key == "location"), "")
        raise SettingError(
            f"--model must hold its weights, got {name} whose weights lie in another file, {file!r:.200}"
        )


def _parse(model: bytes, name: str) -> Any:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise SettingError(f"--model {name} needs onnx, which is not installed: {INSTALL}") from error
    try:
        return onnx.load_model_from_string(model)
    except DecodeError as error:
        raise SettingError(f"--model must be a whole ONNX file, got {name}: {error}") from error


def _outside(message: Any) -> Iterator[Any]:
    """Every tensor below a message whose values are in another file."""
    from google.protobuf.message import Message
    from onnx import TensorProto

    if isinstance(message, TensorProto):
        if message.data_location == TensorProto.EXTERNAL or message.external_data:
            yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if isinstance(value, Message) else value:
                yield from _outside(inner)


def _read(uri: str, name: str, *, room: int) -> bytes:
    """A file of weights beside the model."""
    if name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise SettingError(
            f"--model must have its weights inside or in a file beside it, got {uri} whose weights lie in {name!r:.200}"
        )
    place = storage.join(uri.rpartition("/")[0] or ".", name) if "/" in uri else name
    if not storage.is_remote(place) and not os.path.isfile(storage.resolve(place)[1]):  # a pipe would be waited for
        raise DataError(f"the weights of {uri} lie in another file, {place}, which is not there")
    data = storage.read_bytes(place)
    if len(data) > room:
        raise SettingError(f"--model must have less than 2 GB of weights, got {uri} with more in {name}")
    return data


def _cut(data: bytes, place: dict[str, str], what: str) -> bytes:
    """One tensor's bytes of a file."""
    begin = _number(place.get("offset", "0"), what)
    size = _number(place["length"], what) if "length" in place else len(data) - begin
    if not 0 <= begin <= begin + size <= len(data):
        raise DataError(f"{what} is damaged: it should have {size} bytes at {begin}, and has {len(data)} in all")
    return data[begin : begin + size]


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise DataError(f"{what} is damaged: {text!r:.50} is no place in a file")
    return int(text)
