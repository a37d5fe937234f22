"""Outputs for training samples that stay in a file: of the rows that a run left out, and put together out-of-fold.

n = rows of a file, N = training samples, C = classes.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.dataset import Dataset
from ldlva_dist.dataset.manifest import DatasetInfo, list_column
from ldlva_dist.errors import DataError

LEFT_OUT, OUT_OF_FOLD = "left_out.parquet", "out_of_fold.parquet"
"""In the folder of a run with a fold: of that fold; in the folder of a run on all samples: of all folds."""
OUT_OF_FOLD_TAKEN = "out-of-fold outputs, of networks that did not see the label"
_VERSION = b"content_hash"


def write_outputs(uri: str, info: DatasetInfo, ids_n: NDArray[np.int64], probs_nC: NDArray[np.float32]) -> None:
    """Write columns ``id`` and ``probs`` (a list of C), with the content hash of the data set."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(probs_nC.astype(np.float32).reshape(-1)), probs_nC.shape[1])
    table = pa.table({"id": ids_n, "probs": lists}).replace_schema_metadata({_VERSION: info.content_hash.encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(uri, sink.getvalue().to_pybytes())


def read_outputs(uri: str, info: DatasetInfo, ids_n: NDArray[np.int64]) -> NDArray[np.float32]:
    """[n, C] the outputs of a file that must be of these ids of this data set.

    Raises:
        DataError: for a file that is damaged, or of other samples.
    """
    try:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(uri)), columns=["id", "probs"])
        probs_nC = list_column(table["probs"])
        is_whole = table["id"].null_count == 0 and np.array_equal(table["id"].to_numpy(), ids_n)
    except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError) as error:
        raise DataError(f"{uri} is damaged: {str(error)[:200]}") from error
    found = (table.schema.metadata or {}).get(_VERSION, b"").decode(errors="replace")
    if found != info.content_hash:
        raise DataError(
            f"{uri} must be of the data set's version {info.content_hash[:12]}, got {found[:12]!r}; remove the "
            "file, or judge the run on its own data set"
        )
    if not is_whole or probs_nC.shape != (len(ids_n), len(info.class_names)) or not np.isfinite(probs_nC).all():
        raise DataError(f"{uri} is damaged: it must hold probabilities of {len(ids_n)} samples in id order")
    return probs_nC


def find_out_of_fold(run_uri: str, dataset: Dataset) -> NDArray[np.float32] | None:
    """[N, C] out-of-fold outputs of all training samples, where ``experiment.py folds`` left them in a run's folder."""
    uri = storage.join(run_uri, OUT_OF_FOLD)
    if not storage.exists(uri):
        return None
    return read_outputs(uri, dataset.info, np.arange(dataset.info.num_train))
