"""A finished checkpoint of a synthetic run, in two parts. N = samples, V = feature width."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from ldlva_dist.bank import checkpoint_parts
from ldlva_dist.bank.copy_on_write import CopyOnWriteRows
from ldlva_dist.bank.records import BankRows, blank, encode_records
from ldlva_dist.checkpoint.checkpoint import Checkpoint
from ldlva_dist.checkpoint.saved_files import checkpoint_uri, write_saved_file
from ldlva_dist.checkpoint.state_file import write_state
from ldlva_dist.config import RunConfig, to_json
from ldlva_dist.config.presets import demo
from ldlva_dist.training.build import bank_spec
from ldlva_dist.training.network import build_model
from testing.synthetic_run import SyntheticRun

FIRST_PART = 40
SILENT = 11
"""No neighbour of this sample was ever reached."""


def small_config(run: SyntheticRun) -> RunConfig:
    """A network of a few thousand weights on the run's data."""
    base = demo()
    return replace(
        base,
        data=replace(base.data, dataset=run.dataset.uri),
        model=replace(base.model, width=4, calibration_hidden=(8, 6)),
        neighbors=replace(base.neighbors, num_neighbors=run.graph_NK.shape[1]),
        loss=replace(base.loss, label_smoothing=0.1),
    )


def write_checkpoint(
    folder: Path,
    run: SyntheticRun,
    config: RunConfig,
    graphs: Mapping[str, NDArray[np.int32]] = MappingProxyType({}),
) -> tuple[Checkpoint, torch.Tensor, NDArray[np.float16]]:
    """The checkpoint; its uncertainty logits [N] and the bank's features [N, V]."""
    uri, generator = checkpoint_uri(str(folder), 5), np.random.default_rng(0)
    rows, classes = run.findings.probs_NC.shape
    model, spec = build_model(config, classes), bank_spec(config, run.dataset.info)
    logits = torch.from_numpy(generator.normal(0, 1, rows).astype(np.float32))
    features = generator.normal(0, 1, (rows, spec.feature_width)).astype(np.float16)
    records = encode_records(run.findings.probs_NC, features, spec, 3)
    records["versions"][run.graph_NK[SILENT]] = -1
    parts = {
        "model.safetensors": save({name: value.contiguous() for name, value in model.state_dict().items()}),
        "config.json": to_json(config).encode(),
        "classes.json": json.dumps(list(run.dataset.info.class_names)).encode(),
    }
    for start, stop in ((0, FIRST_PART), (FIRST_PART, rows)):
        table = {"first_id": torch.tensor([start]), "logits": logits[start:stop], "velocity": torch.zeros(stop - start)}
        parts[f"table/ids-{start:012d}-{stop:012d}.safetensors"] = save(table)
        old = BankRows(ids=np.arange(start, stop), records=records[start:stop].copy())
        header = checkpoint_parts.PartHeader(start=start, stop=stop, step=5)
        own = {key: rows[start:stop] for key, rows in graphs.items()}
        parts[header.name] = checkpoint_parts.part_file(CopyOnWriteRows(old), blank(0, 0, spec), header, own).read()
    files = {name: write_saved_file(uri, name, data) for name, data in parts.items()}
    info = run.dataset.info
    facts = {"step": 5, "class_names": list(info.class_names), "content_hash": info.content_hash}
    write_state(uri, facts | {"rows_hash": info.rows_hash}, files)
    return Checkpoint.open(uri), logits, features
