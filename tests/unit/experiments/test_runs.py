"""Cells of an experiment: found again where they are its own, and never taken for those of another."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ldlva_dist.config import RunConfig
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.experiments import cells

CONFIG = RunConfig(name="cell")
FACTS = cells.learnt_from(CONFIG, "0") | {"learning_rates": (0.1,), "level": 0.3}


def test_an_experiment_goes_on_in_its_own_folder_only(tmp_path: Path) -> None:
    folder = str(tmp_path / "out")
    cells.begin_run(folder, "noise", FACTS)
    cells.begin_run(folder, "noise", FACTS)
    cells.begin_run(folder, "noise", FACTS | cells.learnt_from(replace(CONFIG, name="other"), "0"))
    for other in (cells.learnt_from(CONFIG, "1"), {"level": 0.2}):
        with pytest.raises(SettingError, match=r"--output must be new .* with others \((data\.dataset|level)\)"):
            cells.begin_run(folder, "noise", FACTS | other)


def test_a_folder_of_something_else_is_no_experiments(tmp_path: Path) -> None:
    (tmp_path / "noise.md").write_text("mine")
    with pytest.raises(SettingError, match=r"is no experiment's folder, it holds noise\.md"):
        cells.begin_run(str(tmp_path), "noise", FACTS)
    (tmp_path / "runs").mkdir()  # as earlier versions left it
    cells.begin_run(str(tmp_path), "noise", FACTS)


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"accuracy": "high", "seconds": 1}), "{"])
def test_figures_of_a_cell_that_are_none_are_a_sentence(content: str, tmp_path: Path) -> None:
    config = replace(CONFIG, storage_path=str(tmp_path))
    assert cells.finished_run(config) is None
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "cell.json").write_text(content)
    with pytest.raises(DataError, match=r"cell\.json is damaged"):
        cells.finished_run(config)
    (tmp_path / "cell" / "cell.json").write_text(json.dumps({"accuracy": 0.5, "seconds": 3.0}))
    assert cells.finished_run(config) == {"accuracy": 0.5, "seconds": 3.0}
