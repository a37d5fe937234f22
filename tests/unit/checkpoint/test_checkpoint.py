"""A checkpoint is whole or it is not used: every way in which one can be half, and what a run then goes on from."""

import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ldlva_dist.checkpoint import table_files as table_files_module
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.resume import newest_whole, roll_back
from ldlva_dist.checkpoint.saved_files import (
    SavedFiles,
    checkpoint_uri,
    newest_bank_files,
    newest_finished,
    write_saved_file,
)
from ldlva_dist.checkpoint.saver import Saver, worth_keeping
from ldlva_dist.checkpoint.state_file import Facts, UnknownFormatError
from ldlva_dist.checkpoint.table_files import table_files
from ldlva_dist.checkpoint.tensors import pack_tensors
from ldlva_dist.config import RunConfig, TrainingConfig
from ldlva_dist.errors import ClusterError, DataError, SettingError
from ldlva_dist.method.uncertainty_table import UncertaintyTable
from ldlva_dist.records.metrics_log import read_metrics
from ldlva_dist.storage import checksums
from ldlva_dist.stream.plan import PLAN_VERSION, Plan
from ldlva_dist.training.build import roll_back_records
from ldlva_dist.training.rank_votes import give_up
from ldlva_dist.training.schedule import due_at
from testing.forked_ranks import run_ranks


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """One gloo rank in this process."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def _files(step: int) -> dict[str, Callable[[], bytes]]:
    contents = {"model.safetensors": b"m" * 1000, "bank/ids-0.safetensors": b"b" * 50, "config.json": b"{}"}
    return {name: (lambda content=content: content + str(step).encode()) for name, content in contents.items()}


def _save(run: Path, step: int, accuracy: float | None = None, num_to_keep: int = 9) -> str:
    saver = Saver(str(run), num_to_keep=num_to_keep, limit_s=60)
    metrics = {} if accuracy is None else {"holdout_accuracy": accuracy}
    saver.begin(step, _files(step), {"step": step, "metrics": metrics})
    saver.finish()
    return checkpoint_uri(str(run), step)


def _flip_a_byte(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_what_is_written_is_read_back(alone: None, tmp_path: Path) -> None:
    saved = SavedFiles.open(_save(tmp_path, 7))
    assert saved.facts["step"] == 7
    assert saved.names() == ["bank/ids-0.safetensors", "config.json", "model.safetensors"]
    assert saved.read("model.safetensors") == b"m" * 1000 + b"7"
    assert saved.files("bank") == {f"{saved.uri}/bank/ids-0.safetensors": checksums.describe(b"b" * 50 + b"7")}
    assert saved.files("table") == {}


def _change_the_list(at: Path, old: str, new: str) -> None:
    text = (at / "state.json").read_text()
    assert old in text
    (at / "state.json").write_text(text.replace(old, new))


def _leave_the_list_alone(at: Path) -> None:
    for name in SavedFiles.open(str(at)).names():
        (at / name).unlink()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte is another": (lambda at: _flip_a_byte(at / "model.safetensors", 500), "model.safetensors is damaged"),
    "a file is cut short": (lambda at: os.truncate(at / "bank/ids-0.safetensors", 20), "should be 52, got 20"),
    "a file is longer": (lambda at: (at / "config.json").write_bytes(b"{}20 "), "config.json is damaged"),
    "a file is missing": (lambda at: (at / "model.safetensors").unlink(), "there is no file"),
    "the list alone is left": (_leave_the_list_alone, "there is no file"),
    "the list is cut short": (lambda at: os.truncate(at / "state.json", 40), "it is no JSON"),
    "a digit of it is another": (lambda at: _change_the_list(at, 'step": 20', 'step": 21'), "checksum should be"),
    "a bit of its format": (lambda at: _change_the_list(at, 'version": 2', 'version": 3'), "checksum should be"),
    "it was not written": (lambda at: (at / "state.json").unlink(), "was not written to its end"),
}
"""What can befall the newest checkpoint, and a word of the sentence that tells of it."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_one_before_a_damaged_checkpoint_is_used_and_the_damage_is_named(
    alone: None, tmp_path: Path, damage: str
) -> None:
    before, newest = _save(tmp_path, 10), _save(tmp_path, 20)
    told: list[str] = []
    assert _newest_whole(tmp_path, told.append) == newest
    assert told == [f"resuming from {newest}"]
    do, word = DAMAGES[damage]
    do(Path(newest))
    told.clear()
    assert _newest_whole(tmp_path, told.append) == before
    assert len(told) == 1
    assert newest in told[0]
    assert word in told[0]
    assert f"resuming from {before}" in told[0]


def _newest_whole(run: Path, tell: Callable[[str], None]) -> str:
    found = newest_whole(str(run), tell)
    assert found
    return found.uri


def test_the_newest_finished_checkpoint_is_opened_of_a_run_and_of_itself(alone: None, tmp_path: Path) -> None:
    assert Checkpoint.newest(str(tmp_path)) is None
    assert newest_bank_files(str(tmp_path)) == {}
    saved = [_save(tmp_path, step) for step in (10, 20)]
    write_saved_file(checkpoint_uri(str(tmp_path), 30), "model.safetensors", b"half")
    for place, uri in ((str(tmp_path), saved[1]), (saved[0], saved[0])):
        newest = Checkpoint.newest(place)
        assert newest
        assert newest.uri == newest_finished(place) == uri
        assert newest_bank_files(place) == newest.bank_files == newest.files("bank")
        assert list(newest.bank_files) == [f"{uri}/bank/ids-0.safetensors"]


def test_where_no_finished_checkpoint_is_whole_the_run_does_not_begin_anew(alone: None, tmp_path: Path) -> None:
    for step in (10, 20):
        _flip_a_byte(Path(_save(tmp_path, step)) / "config.json", 0)
    with pytest.raises(DataError, match=r"no checkpoint of .* is whole: .*step-00000020.*step-00000010"):
        newest_whole(str(tmp_path), pytest.fail)


def test_a_run_whose_first_checkpoint_was_not_finished_begins_anew(alone: None, tmp_path: Path) -> None:
    assert newest_whole(str(tmp_path), pytest.fail) is None
    write_saved_file(checkpoint_uri(str(tmp_path), 10), "model.safetensors", b"half")
    told: list[str] = []
    assert newest_whole(str(tmp_path), told.append) is None
    assert "step-00000010 was not written to its end: resuming from the beginning" in told[0]


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"format_version": 1, "step": 10}, "format_version 1, this program reads 2; its files have no checksums"),
        ({"format_version": 3, "step": 10}, "format_version 3, this program reads 2: train again"),
    ],
)
def test_a_checkpoint_of_another_format_is_refused_not_passed_over(
    alone: None, tmp_path: Path, state: dict[str, int], sentence: str
) -> None:
    _save(tmp_path, 10)
    (tmp_path / "step-00000020").mkdir()
    (tmp_path / "step-00000020" / "state.json").write_text(json.dumps(state))
    with pytest.raises(UnknownFormatError, match=sentence):
        newest_whole(str(tmp_path), pytest.fail)


def test_a_run_of_another_plan_does_not_go_on() -> None:
    with pytest.raises(DataError, match=f"version 0 of the plan, this program has version {PLAN_VERSION}"):
        Checkpoint("here", Facts("here", {"plan_version": 0, "files": {}})).require_plan(PLAN_VERSION)


def test_damage_is_found_by_whoever_reads_a_file(alone: None, tmp_path: Path) -> None:
    saved = _save(tmp_path, 10)
    _flip_a_byte(Path(saved) / "model.safetensors", 3)
    with pytest.raises(DataError, match=r"model\.safetensors is damaged: checksum should be \d+, got \d+"):
        SavedFiles.open(saved).read("model.safetensors")


def test_nobody_sees_a_checkpoint_before_its_last_file_is_there(alone: None, tmp_path: Path) -> None:
    before = _save(tmp_path, 10)
    may_end = threading.Event()
    slow = _files(20) | {"config.json": lambda: b"{}" if may_end.wait(60) else b""}
    saver = Saver(str(tmp_path), num_to_keep=9, limit_s=60)
    saver.begin(20, slow, {"step": 20, "metrics": {}})
    assert saver.uploading
    assert newest_finished(str(tmp_path)) == before
    may_end.set()
    saver.finish()
    assert not saver.uploading
    assert newest_finished(str(tmp_path)) == checkpoint_uri(str(tmp_path), 20)


def test_an_upload_that_takes_too_long_is_an_error_that_names_the_rank(alone: None, tmp_path: Path) -> None:
    may_end = threading.Event()
    saver = Saver(str(tmp_path), num_to_keep=1, limit_s=0.01)
    saver.begin(20, {"config.json": lambda: b"{}" if may_end.wait(60) else b""}, {"step": 20, "metrics": {}})
    late = r"rank 0 did not upload its files of .*step-00000020 in 0.01 s"
    with pytest.raises(ClusterError, match=late):
        all(saver.uploading for _ in itertools.count())  # as it is asked after every step
    with pytest.raises(ClusterError, match=late):
        saver.finish()
    may_end.set()


def test_files_that_others_write_belong_to_the_checkpoint_too(alone: None, tmp_path: Path) -> None:
    saver, asked = Saver(str(tmp_path), num_to_keep=1, limit_s=60), threading.Event()

    def elsewhere(uri: str, limit_s: float) -> Callable[[], dict[str, checksums.Entry]]:
        asked.set()
        return lambda: {"bank/part": write_saved_file(uri, "bank/part", b"%g" % limit_s)}

    def own() -> bytes:
        assert asked.wait(60), "others write beside this rank, not after it"
        return b"own"

    saver.begin(20, {"model.safetensors": own}, {"step": 20, "metrics": {}}, elsewhere)
    saver.finish()
    saved = SavedFiles.open(checkpoint_uri(str(tmp_path), 20))
    assert (saved.read("model.safetensors"), saved.read("bank/part")) == (b"own", b"60")


def test_an_error_of_those_who_write_elsewhere_is_the_savers(alone: None, tmp_path: Path) -> None:
    def fail() -> dict[str, checksums.Entry]:
        raise ClusterError("bank shards [1] failed")

    saver = Saver(str(tmp_path), num_to_keep=1, limit_s=60)
    saver.begin(20, _files(20), {"step": 20, "metrics": {}}, lambda uri, limit_s: fail)
    with pytest.raises(ClusterError, match=r"shards \[1\] failed"):
        saver.finish()
    assert newest_finished(str(tmp_path)) is None


def test_values_that_are_not_finite_do_not_become_a_checkpoint(alone: None, tmp_path: Path) -> None:
    saver = Saver(str(tmp_path), num_to_keep=1, limit_s=60)
    weights = {"a": torch.ones(3), "conv": torch.tensor([0.0, float("nan")])}
    saver.begin(20, {"model.safetensors": lambda: pack_tensors("weights", weights)}, {"step": 20, "metrics": {}})
    with pytest.raises(DataError, match="the weights are not finite any more, first conv"):
        saver.finish()
    assert newest_finished(str(tmp_path)) is None


def test_the_newest_checkpoints_and_the_best_are_kept(alone: None, tmp_path: Path) -> None:
    saver = Saver(str(tmp_path), num_to_keep=2, limit_s=60)
    for step, accuracy in ((10, 0.5), (20, 0.9), (30, None), (40, 0.7), (50, None)):
        metrics = {} if accuracy is None else {"holdout_accuracy": accuracy}
        saver.begin(step, _files(step), {"step": step, "metrics": metrics})
        saver.finish()
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [f"step-{n:08d}" for n in (20, 40, 50)]
    _save(tmp_path, 60, 0.8, num_to_keep=1)  # a later start knows the best of the earlier ones
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [f"step-{n:08d}" for n in (20, 60)]


def test_of_equally_good_checkpoints_the_later_is_kept() -> None:
    assert worth_keeping({10: 0.9, 20: 0.9, 30: 0.1}, 1) == {20, 30}
    assert worth_keeping({10: None, 20: None}, 1) == {20}
    assert worth_keeping({}, 1) == set()


def test_what_a_start_left_unfinished_goes_with_the_next_checkpoint(alone: None, tmp_path: Path) -> None:
    for step in (15, 99):
        write_saved_file(checkpoint_uri(str(tmp_path), step), "model.safetensors", b"half")
    _save(tmp_path, 10)
    roll_back(str(tmp_path), 10)
    _save(tmp_path, 20)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000010", "step-00000020"]


def test_a_checkpoint_is_due_by_the_clock_besides_its_steps() -> None:
    plan = Plan((100,), 0, 10, 16)
    training = TrainingConfig(epochs=10, evaluate_every_epochs=10, checkpoint_every_steps=7, log_every_steps=50)
    assert [step for step in range(1, 31) if due_at(training, plan, step).checkpoint] == [7, 14, 21, 28]
    due = due_at(training, plan, 5, save=True)
    assert due.checkpoint
    assert due.log
    assert not due.evaluation
    with pytest.raises(SettingError, match=r"training.checkpoint_every_minutes must be a number > 0 or none, got 0"):
        TrainingConfig(checkpoint_every_minutes=0)


def test_every_rank_uploads_its_share_checks_its_share_and_names_a_bad_loss(tmp_path: Path) -> None:
    run_ranks(_three_ranks, (str(tmp_path),), 3)
    for rank in range(3):
        said = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert said["names"] == ["model.safetensors", *(f"table/part-{r}" for r in range(3))]
        assert said["chosen"] == checkpoint_uri(str(tmp_path), 10)
        assert said["told"] == (1 if rank == 0 else 0)
        assert said["error"].startswith("the loss of step 21 is nan on rank 1, which trained on the samples [4, 7]; ")
        assert f"the last good checkpoint is {checkpoint_uri(str(tmp_path), 10)}. " in said["error"]


def _three_ranks(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", 3)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=3)
    saver = Saver(folder, num_to_keep=9, limit_s=60)
    for step in (10, 20):
        files = {f"table/part-{rank}": lambda: bytes(rank + 1)} | ({"model.safetensors": bytes} if rank == 0 else {})
        saver.begin(step, files, {"step": step, "metrics": {}})
        saver.finish()
    dist.barrier()
    newest = checkpoint_uri(folder, 20)
    names = SavedFiles.open(newest).names()
    if rank == 2:
        Path(newest, "table", "part-1").write_bytes(b"xx")
    dist.barrier()
    told: list[str] = []
    chosen = newest_whole(folder, told.append)
    assert chosen
    dist.barrier()
    if rank == 0:
        roll_back(folder, 10)
    dist.barrier()
    try:
        give_up(folder, 21, float("nan") if rank == 1 else 0.5, np.array([4, 7]) if rank == 1 else np.array([1, 2]))
    except DataError as error:
        said = {"names": names, "chosen": chosen.uri, "told": len(told), "error": str(error)}
        Path(folder, f"rank-{rank}.json").write_text(json.dumps(said))
    dist.barrier()
    dist.destroy_process_group()


def test_a_table_comes_back_on_any_number_of_ranks_and_each_reads_only_the_files_that_hold_its_rows(
    alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files_module, "FILE_ROWS", 7)
    table = UncertaintyTable(30, initial_logit=0.0, lr=0.1, momentum=0.9)
    route = table.route(np.arange(30))
    table.read(route)
    table.apply(route, torch.from_numpy(np.random.default_rng(0).normal(size=30).astype(np.float32)))()
    files = table_files(table)
    there = {name: values.clone() for name, values in table.state().items()}
    table.apply(route, torch.ones(30))()  # what is learnt later is not in them
    saver = Saver(str(tmp_path), num_to_keep=1, limit_s=60)
    saver.begin(1, files, {"step": 1, "metrics": {}})
    saver.finish()
    saved = Checkpoint.open(checkpoint_uri(str(tmp_path), 1))
    assert len(saved.names("table")) == 5
    parts = [list(saved.read_table(start, stop)) for start, stop in ((0, 30), (6, 8), (7, 14))]
    assert [len(part) for part in parts] == [5, 2, 1]
    saved.restore_table(table)
    for name in ("logits", "velocity"):
        assert torch.equal(table.state()[name], there[name])


@pytest.mark.parametrize(("steps", "said"), [((5, 7, 9), []), ((5,), ["ends at step 5"]), ((), ["ends at step 0"])])
def test_lines_of_the_log_that_are_lost_are_said_by_who_resumes(
    tmp_path: Path, steps: tuple[int, ...], said: list[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in steps))
    config = RunConfig(name="run", storage_path=str(tmp_path), training=TrainingConfig(tracker="none"))
    told: list[str] = []
    log = roll_back_records(config, 7, told.append)
    log.close()
    assert [sentence.partition("metrics.jsonl ")[2].partition(":")[0] for sentence in told] == said
    assert [line["step"] for line in read_metrics(str(tmp_path / "run"))] == [step for step in steps if step <= 7]
