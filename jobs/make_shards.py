"""Pack faces into a data set: python jobs/make_shards.py {folder,parquet,faces} --output DATASET ..."""

import tyro
from rich.console import Console

from ldlva_dist.data import storage
from ldlva_dist.data.manifest import DATASET
from ldlva_dist.data.packing import PackSettings, pack
from ldlva_dist.data.sources.commands import Command
from ldlva_dist.data.survey import NO_LABEL, check_budget, count_reasons, survey
from ldlva_dist.errors import SettingError
from ldlva_dist.terminal import print_dataset, run_job


def main() -> None:
    """Verify everything, then write everything."""
    command = tyro.cli(Command, description=__doc__)
    taken = storage.join(command.output, DATASET) if storage.is_remote(command.output) else command.output
    if storage.exists(taken):
        raise SettingError(f"--output must not exist, got {command.output!r}")
    source = command.source()
    storage.check_writable(command.output)
    console = Console()
    with console.status("verifying every row"):
        found = survey(source, command.classes, command.size)
        check_budget(found, command.max_rejected)
    settings = PackSettings(
        name=command.name or command.output.rstrip("/").rpartition("/")[2],
        class_names=command.classes,
        size=command.size,
        holdout=command.holdout,
        seed=command.seed,
        standardize_va=command.standardize_va,
        shuffle_va=command.shuffle_va,
    )
    with console.status("writing shards"):
        info = pack(source, found, command.output, settings)
    reasons = count_reasons(found.rejected)
    del reasons[NO_LABEL]
    print_dataset(info, command.output, rejected=reasons)


if __name__ == "__main__":
    run_job(main)
