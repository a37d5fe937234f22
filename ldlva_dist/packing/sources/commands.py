"""The kinds of source that ``python jobs/make_shards.py KIND --SETTING VALUE ...`` packs."""

from typing import Annotated

from tyro.conf import subcommand

from ldlva_dist.packing.sources.generic import ClassFolders, Faces, Parquet, WebDataset, Yolo
from ldlva_dist.packing.sources.image_tables import Folder
from ldlva_dist.packing.sources.known_sets.affectnet_commands import AffectNet, AffectNetFolders, AffectNetPlus
from ldlva_dist.packing.sources.known_sets.commands import CkExtended, ExpW, Fer2013, FerPlus, Jaffe, Kdef, RafDb

Command = (
    Annotated[Folder, subcommand("folder")]
    | Annotated[ClassFolders, subcommand("class-folders")]
    | Annotated[Parquet, subcommand("parquet")]
    | Annotated[WebDataset, subcommand("webdataset")]
    | Annotated[AffectNet, subcommand("affectnet")]
    | Annotated[AffectNetFolders, subcommand("affectnet-folders")]
    | Annotated[AffectNetPlus, subcommand("affectnet-plus")]
    | Annotated[RafDb, subcommand("rafdb")]
    | Annotated[FerPlus, subcommand("ferplus")]
    | Annotated[Fer2013, subcommand("fer2013")]
    | Annotated[CkExtended, subcommand("ckextended")]
    | Annotated[ExpW, subcommand("expw")]
    | Annotated[Kdef, subcommand("kdef")]
    | Annotated[Jaffe, subcommand("jaffe")]
    | Annotated[Yolo, subcommand("yolo")]
    | Annotated[Faces, subcommand("faces")]
)
