"""The kinds of source that ``python jobs/make_shards.py KIND --SETTING VALUE ...`` packs."""

from typing import Annotated

from tyro.conf import subcommand

from ldlva_dist.data.sources.generic import Faces, Folder, Parquet

Command = (
    Annotated[Folder, subcommand("folder")]
    | Annotated[Parquet, subcommand("parquet")]
    | Annotated[Faces, subcommand("faces")]
)
