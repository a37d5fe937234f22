"""The kinds of source that ``python jobs/make_shards.py KIND --SETTING VALUE ...`` packs."""

from typing import Annotated

from tyro.conf import subcommand

from ldlva_dist.packing.sources.generic import ClassFolders, Faces, Folder, Parquet, WebDataset
from ldlva_dist.packing.sources.known_sets.commands import AffectNet, AffectNetFolders, FerPlus, RafDb

Command = (
    Annotated[Folder, subcommand("folder")]
    | Annotated[ClassFolders, subcommand("class-folders")]
    | Annotated[Parquet, subcommand("parquet")]
    | Annotated[WebDataset, subcommand("webdataset")]
    | Annotated[AffectNet, subcommand("affectnet")]
    | Annotated[AffectNetFolders, subcommand("affectnet-folders")]
    | Annotated[RafDb, subcommand("rafdb")]
    | Annotated[FerPlus, subcommand("ferplus")]
    | Annotated[Faces, subcommand("faces")]
)
