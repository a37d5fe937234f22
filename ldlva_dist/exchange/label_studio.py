"""Label Studio: tasks with the run's proposal as a prediction; exports as JSON and as JSON_MIN are read back.

A prediction's score is 1 - suspicion, so that Label Studio, which sorts by it upwards, shows the most doubtful first.
"""

import json
from typing import Any
from xml.sax.saxutils import quoteattr

import pyarrow as pa

from ldlva_dist import storage
from ldlva_dist.exchange.common_form import (
    LabelIssue,
    Listed,
    as_issues,
    as_table,
    facts_of,
    need,
    optional_text_at,
    read_json,
    score_at,
    text_at,
)

TASKS, CONFIG = "tasks.json", "config.xml"
CHOICE, IMAGE = "decision", "image"
"""Names of the two tags of the labelling interface; JSON_MIN names a task's choice by the first."""
MODEL = "ldlva_dist"


def write_label_studio(folder: str, listed: Listed) -> list[str]:
    """Write tasks.json to import, and config.xml, the labelling interface; returns their addresses."""
    tasks = [
        _task(row, f"{listed.image_address}/{name}")
        for row, name in zip(as_issues(listed.rows), listed.image_names, strict=True)
    ]
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in listed.class_names)
    config = (
        f'<View>\n  <Image name="{IMAGE}" value="${IMAGE}"/>\n  <Header value="given: $given, proposed: $proposed"/>\n'
        f'  <Choices name="{CHOICE}" toName="{IMAGE}" choice="single" showInline="true">\n{choices}\n  </Choices>\n'
        "</View>\n"
    )
    uris = [storage.join(folder, name) for name in (TASKS, CONFIG)]
    storage.write_bytes(uris[0], (json.dumps(tasks, ensure_ascii=False, indent=1) + "\n").encode())
    storage.write_bytes(uris[1], config.encode())
    return uris


def read_label_studio(uri: str) -> pa.Table:
    """Tasks, or an export of them: a row for each annotation that was not cancelled, or one without a decision."""
    tasks = read_json(uri)
    need(isinstance(tasks, list), uri, "a list of tasks", tasks)
    rows: list[LabelIssue] = []
    for number, task in enumerate(tasks, 1):
        place = f"{uri}, task {number}"
        need(isinstance(task, dict), place, "an object", task)
        rows += _whole(task, place) if "data" in task else [_short(task, place)]
    return as_table(rows)


def _task(row: LabelIssue, address: str) -> dict[str, Any]:
    facts = facts_of(row)
    facts.pop(CHOICE, None)
    assert row.score is not None
    task: dict[str, Any] = {
        "data": {IMAGE: address, "key": row.key, **facts},
        "predictions": [{"model_version": MODEL, "score": 1 - row.score, "result": [_result(row.proposed)]}],
    }
    if row.decision is not None:
        task["annotations"] = [{"result": [_result(row.decision)]}]
    return task


def _result(choice: str | None) -> dict[str, Any]:
    return {"from_name": CHOICE, "to_name": IMAGE, "type": "choices", "value": {"choices": [choice]}}


def _whole(task: dict[str, Any], place: str) -> list[LabelIssue]:
    """Rows of a task as Label Studio's JSON has it."""
    data = task["data"]
    need(isinstance(data, dict), f"{place}, data", "an object", data)
    plain = _facts(data, place)
    predictions, annotations = (_objects(task, name, place) for name in ("predictions", "annotations"))
    if predictions:
        where = f"{place}, prediction 1"
        if plain.proposed is None:
            plain = plain._replace(proposed=_choice(predictions[0], where))
        if plain.score is None and (score := score_at(predictions[0].get("score"), f"{where}, score")) is not None:
            plain = plain._replace(score=1 - score)
    rows = []
    for number, annotation in enumerate(annotations, 1):
        where = f"{place}, annotation {number}"
        decision = None if annotation.get("was_cancelled") is True else _choice(annotation, where)
        if decision is not None:
            reviewer = _reviewer(annotation.get("completed_by"), where)
            rows.append(plain._replace(decision=decision, reviewer=reviewer))
    return rows or [plain]


def _short(task: dict[str, Any], place: str) -> LabelIssue:
    """The row of a task as JSON_MIN has it: one for each annotation."""
    chosen = task.get(CHOICE)
    if isinstance(chosen, dict):
        chosen = _only(chosen.get("choices"), f"{place}, {CHOICE}")
    reviewer = _reviewer(task.get("annotator"), place)
    return _facts(task, place)._replace(
        decision=optional_text_at(chosen, f"{place}, {CHOICE}"), reviewer=reviewer if chosen else None
    )


def _facts(data: dict[str, Any], place: str) -> LabelIssue:
    key = text_at(data.get("key"), f"{place}, data.key")
    given, proposed = (optional_text_at(data.get(name), f"{place}, data.{name}") for name in ("given", "proposed"))
    return LabelIssue(key, given, proposed, score_at(data.get("suspicion"), f"{place}, data.suspicion"))


def _objects(task: dict[str, Any], name: str, place: str) -> list[dict[str, Any]]:
    found = task.get(name) or []
    is_list = isinstance(found, list) and all(isinstance(member, dict) for member in found)
    need(is_list, f"{place}, {name}", "a list of objects", found)
    return found


def _choice(answer: dict[str, Any], place: str) -> str | None:
    """The class of an annotation or a prediction; None where nothing was chosen."""
    results = [result for result in _objects(answer, "result", place) if result.get("type") == "choices"]
    if not results:
        return None
    need(len(results) == 1, f"{place}, result", "one choice", f"{len(results)} of them")
    value: Any = results[0].get("value")
    need(isinstance(value, dict), f"{place}, value", "an object", value)
    return text_at(_only(value.get("choices"), f"{place}, choices"), f"{place}, choices")


def _only(choices: object, place: str) -> object:
    need(isinstance(choices, list) and len(choices) == 1, place, "a list of one class", choices)
    assert isinstance(choices, list)
    return choices[0]


def _reviewer(who: object, place: str) -> str | None:
    """Name of an annotator, whom Label Studio writes as a number, or as an object with an email."""
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    is_number = isinstance(who, int) and not isinstance(who, bool)
    return f"annotator {who}" if is_number else optional_text_at(who, f"{place}, annotator")
