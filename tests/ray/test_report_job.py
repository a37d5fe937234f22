"""The job that writes the report judges a run where that was not done yet."""

import json
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save

from ldlva_dist.config import to_json
from ldlva_dist.data.manifest import read_info
from ldlva_dist.training import checkpoint
from ldlva_dist.training.build import build_model
from tests._runs import tiny_run
from tests._scripts import Scripts


def test_only_figures_of_the_test_split_are_left_for_the_export(faces: str, scripts: Scripts, tmp_path: Path) -> None:
    """jobs/export.py puts evaluation.json into MODEL.md, whatever the page was made for."""
    config, info = tiny_run(faces, tmp_path, "ours"), read_info(faces)
    config = replace(config, loss=replace(config.loss, recipe="ce"))
    model = build_model(config, len(info.class_names), pretrained=False)
    uri = checkpoint.uri_of(str(tmp_path / "ours"), 3)
    files = {
        "model.safetensors": save({name: value.contiguous() for name, value in model.state_dict().items()}),
        "config.json": to_json(config).encode(),
    }
    written = {name: checkpoint.write_file(uri, name, data) for name, data in files.items()}
    facts = {"step": 3, "class_names": list(info.class_names), "content_hash": info.content_hash}
    checkpoint.finish(uri, facts | {"rows_hash": info.rows_hash}, written)

    def judged_on(split: str) -> str | None:
        """What evaluation.json is of, after a page of ``split``."""
        done = scripts.run("report", "--run", str(tmp_path / "ours"), "--split", split)
        assert done.code == 0, done.stderr
        assert f"On split {split}" in (tmp_path / "ours" / "report.html").read_text()
        found = tmp_path / "ours" / "evaluation.json"
        return json.loads(found.read_text())["split"] if found.exists() else None

    assert [judged_on(split) for split in ("holdout", "test", "holdout")] == [None, "test", "test"]
