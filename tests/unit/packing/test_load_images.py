"""Images of a table as they are packed: one odd path is one rejected row."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ldlva_dist.dataset.images import encode_image
from ldlva_dist.packing.passes.load_images import HUGE_FILE, MAX_IMAGE_BYTES, NO_IMAGE, check_images, load_images


def test_an_odd_path_is_one_rejected_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("circle").symlink_to("circle")
    good = encode_image(np.full((16, 16, 3), 90, dtype=np.uint8))
    Path("good.jpg").write_bytes(good)
    Path("empty.jpg").write_bytes(b"")
    with open("huge.jpg", "wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    up = "../" * 40
    odd = ["folder", "pipe", "circle", "x" * 300, "a\0b", "http://host/x.jpg", "s3://b/k", "missing", "empty.jpg"]
    odd += ["good.jpg/x", "socket", f"{up}dev/tty", f"{up}dev/zero", f"{up}proc/kmsg", f"{up}proc", ""]
    paths = ["good.jpg", *odd, "huge.jpg", "good.jpg"]
    with socket.socket(socket.AF_UNIX) as server, ThreadPoolExecutor(4) as pool:
        server.bind("socket")
        uris = [f"{tmp_path}/{path}" for path in paths]
        found = list(load_images(uris, None, pool))
        checked = list(check_images(uris, None, pool))
    assert found[0] == found[-1] == good
    assert [str(answer) for answer in checked[1:-1]] == [str(answer) for answer in found[1:-1]]
    assert isinstance(checked[0], tuple)
    assert checked[0] == checked[-1]
    assert checked[0][0] == good
    assert [str(reason) for reason in found[1:-2]] == [NO_IMAGE] * len(odd)
    assert str(found[-2]) == HUGE_FILE
