"""Doubtful labels out of a generator, with names and scores that are hard to keep whole."""

import random
from collections.abc import Sequence

import numpy as np

from ldlva_dist.exchange.common_form import LabelIssue, Listed, as_table

CLASSES = ("Neutral", 'Très "glad", <&> so', "=sad\u0301", "'-fear", "5", "怒り\u00a0")


def random_issues(count: int, seed: int = 0) -> list[LabelIssue]:
    """Samples as a run would propose them, a third of them decided by a reviewer.

    No key reads as a number: findings/spotlight_text_that_reads_as_a_number.sh.
    """
    draw = random.Random(seed)
    letters = "abcXYZ019-_éß怒"
    return [
        LabelIssue(
            key=f"{'-' if i % 50 == 0 else ''}é{''.join(draw.choices(letters, k=9))}_{i}",
            given=draw.choice(CLASSES),
            proposed=draw.choice(CLASSES),
            score=draw.choice([draw.random(), draw.random() ** 40, 1 - 2**-53, 5e-324, 0.0, 1.0]),
            decision=draw.choice([None, None, draw.choice(CLASSES)]),
        )
        for i in range(count)
    ]


def listed(issues: Sequence[LabelIssue], image_address: str = "/data/local-files/?d=out/images") -> Listed:
    """What a writer takes, for images of 48 x 40 pixels named by their keys."""
    embedding_nV = np.random.default_rng(0).normal(size=(len(issues), 8)).astype(np.float32)
    return Listed(
        rows=as_table(issues),
        class_names=CLASSES,
        image_names=[f"{issue.key}.jpg" for issue in issues],
        image_sizes=[(48, 40)] * len(issues),
        image_address=image_address,
        embedding_nV=embedding_nV,
    )
