"""The job that writes the report judges a run where that was not done yet."""

import json
from pathlib import Path

from testing.clusters.job_scripts import Scripts
from testing.tiny_runs import untrained_run


def test_only_figures_of_the_test_split_are_left_for_the_export(faces: str, scripts: Scripts, tmp_path: Path) -> None:
    """jobs/export.py puts evaluation.json into MODEL.md, whatever the page was made for."""
    run = Path(untrained_run(faces, tmp_path, recipe="ce"))

    def judged_on(split: str) -> str | None:
        """What evaluation.json is of, after a page of ``split``."""
        done = scripts.run("report", "--run", str(run), "--split", split)
        assert done.code == 0, done.stderr
        assert f"On split {split}" in (run / "report.html").read_text()
        found = run / "evaluation.json"
        return json.loads(found.read_text())["split"] if found.exists() else None

    assert [judged_on(split) for split in ("holdout", "test", "holdout")] == [None, "test", "test"]
