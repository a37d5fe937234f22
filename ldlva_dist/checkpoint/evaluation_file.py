"""``evaluation.json``: the judgement of a checkpoint, in its run's folder; analysis/scoring.py says its keys."""

import json
from collections.abc import Mapping
from typing import Any

from ldlva_dist import storage

EVALUATION = "evaluation.json"


def write_evaluation(run_uri: str, evaluation: Mapping[str, Any]) -> str:
    """Write the evaluation of a run's checkpoint into the run's folder, over an earlier one.

    Returns:
        Address of the file.
    """
    uri = storage.join(run_uri, EVALUATION)
    storage.write_bytes(uri, (json.dumps(evaluation, indent=2) + "\n").encode())
    return uri
