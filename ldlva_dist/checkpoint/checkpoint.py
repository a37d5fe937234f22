"""A finished checkpoint of a run, opened once: its facts, settings, weights, uncertainties and bank files."""

from collections.abc import Iterator
from functools import cached_property

from torch import Tensor

from ldlva_dist import storage
from ldlva_dist.checkpoint.saved_files import SavedFiles
from ldlva_dist.checkpoint.table_files import TABLE_FOLDER, check_table_part, table_part_ids
from ldlva_dist.config import RunConfig, read_back
from ldlva_dist.dataset.manifest import DatasetInfo
from ldlva_dist.errors import DataError, SettingError
from ldlva_dist.method.uncertainty_table import UncertaintyTable
from ldlva_dist.models.weights_file import read_safetensors

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class Checkpoint(SavedFiles):
    """A finished checkpoint: what a run had learnt after some steps. Each file is read when it is asked for.

    :meth:`open` takes its address, :meth:`newest` that of a run; functions take the checkpoint itself.
    """

    @cached_property
    def config(self) -> RunConfig:
        """Settings that it was trained with."""
        return read_back(self.read(CONFIG), storage.join(self.uri, CONFIG))

    @property
    def weights_crc32(self) -> int:
        """CRC-32 of the weights, which tells them from those of another checkpoint of the same name and steps."""
        return self.crc32(WEIGHTS)

    def read_weights(self) -> dict[str, Tensor]:
        """The whole model."""
        return self.read_tensors(WEIGHTS)

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a file; DataError if it is missing, damaged or no safetensors file."""
        return read_safetensors(self.read(name), storage.join(self.uri, name))

    def read_table(self, start: int, stop: int) -> Iterator[dict[str, Tensor]]:
        """The parts of the uncertainty table that hold any of the ids start..stop-1, in id order, read one by one."""
        for name in self.names(TABLE_FOLDER):
            uri = storage.join(self.uri, name)
            begin, end = table_part_ids(uri)
            if begin < stop and start < end:
                part = self.read_tensors(name)
                check_table_part(uri, part, begin, end)
                yield part

    def restore_table(self, table: UncertaintyTable, known_rows: int | None = None) -> None:
        """Put into a table this rank's rows out of the files that any number of ranks wrote.

        With ``known_rows`` the ids below it are there, and the others stay as they are.
        """
        try:
            table.restore(self.read_table(table.start, table.stop), known_rows)
        except ValueError as error:
            raise DataError(f"{self.uri} is damaged: {error}") from error

    def read_logits(self, num_rows: int, columns: int | None = None) -> Tensor:
        """[num_rows] the uncertainty logits of all training samples, for evaluation; [num_rows, columns] of ``sop``."""
        table = UncertaintyTable(num_rows, initial_logit=0.0, lr=[0.0] * columns if columns else 0.0)
        self.restore_table(table)
        return table.state()["logits"]

    def require_data_set(self, info: DatasetInfo, *, allow_other_version: bool = False) -> None:
        """Refuse a data set of other classes, or of another content unless that is allowed.

        Raises:
            SettingError: where it does not belong to the checkpoint.
        """
        facts = self.facts
        if facts["class_names"] != list(info.class_names):
            raise SettingError(
                f"data.dataset must have the checkpoint's classes in its order ({', '.join(facts['class_names'])}), "
                f"got {', '.join(info.class_names)}"
            )
        if facts["content_hash"] != info.content_hash and not allow_other_version:
            raise SettingError(
                f"data.dataset must be the version the checkpoint was trained on ({facts['content_hash'][:12]}), "
                f"got {info.content_hash[:12]}; training on another version begins anew, under another name "
                "(--training.start-from takes over what was learnt); "
                "jobs/evaluate.py judges on another version with --allow-other-version"
            )

    def known_rows(self, info: DatasetInfo) -> int:
        """Training rows of a data set that the run knew: the first so many ids, all but those that were added since.

        Raises:
            SettingError: for other classes, or rows that are neither those of the data set nor those it had before.
        """
        self.require_data_set(info, allow_other_version=True)
        known = {before.rows_hash: before.splits["train"].rows for before in info.before}
        known[info.rows_hash] = info.num_train
        rows_hash = self.facts.get("rows_hash", self.facts["content_hash"])
        if rows_hash not in known:
            raise SettingError(
                "training.start_from must be of a run on this data set, on a version with the same rows, or on what it "
                f"was before rows were added, got {self.uri}, which knows other rows"
            )
        return known[rows_hash]

    def require_plan(self, plan_version: int) -> None:
        """DataError if its run dealt out the samples by other rules: its step is no place in ours."""
        if self.facts["plan_version"] != plan_version:
            raise DataError(
                f"{self.uri} was trained by version {self.facts['plan_version']} of the plan, this program has version "
                f"{plan_version}, which deals out the samples in another order: its run cannot be resumed; "
                "it can be evaluated, and another run can begin under another name"
            )

    def has_rows_of(self, info: DatasetInfo) -> bool:
        """Whether a sample's id means the same to the checkpoint and to a data set or version."""
        return self.facts.get("rows_hash", self.facts["content_hash"]) == info.rows_hash
