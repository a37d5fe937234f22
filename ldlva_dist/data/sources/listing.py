"""The image files in a folder and in the folders below it."""

from functools import lru_cache

import pyarrow as pa
from pyarrow import fs

from ldlva_dist.data import storage
from ldlva_dist.errors import ClusterError, DataError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")


@lru_cache(maxsize=8)
def image_files(uri: str) -> pa.StringArray:
    """Paths below the folder ``uri``, sorted; listed once per process. Hidden files and what is no image are no rows.

    Raises:
        DataError: where there is no such folder.
    """
    filesystem, path = storage.resolve(uri)
    try:
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"there is no folder {uri}") from error
    except OSError as error:
        raise ClusterError(f"the store failed at {uri}: {error}") from error
    begin = len(path) + 1
    names = (info.path[begin:] for info in infos if info.type == fs.FileType.File)
    return pa.array(sorted(filter(_is_image, names)), pa.string())


def _is_image(path: str) -> bool:
    return path.lower().endswith(IMAGES) and not path.rpartition("/")[2].startswith(".")
