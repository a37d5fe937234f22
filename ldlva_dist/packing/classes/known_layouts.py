"""Layouts of known sets as data: what their columns, codes and file names mean. Readers are in ``sources/readers``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ldlva_dist.packing.classes.known_sets import FER2013, RAF_DB


@dataclass(frozen=True, kw_only=True)
class NamedFiles:
    """A set whose file names say what they show."""

    kind: str
    """Its name on the command line."""
    pattern: str
    """A whole file name; the group ``code`` is the class's, the others ride along."""
    codes: Mapping[str, str]
    """Classes by their codes."""

    @property
    def extras(self) -> tuple[str, ...]:
        """What rides along."""
        return tuple(name for name in re.compile(self.pattern).groupindex if name != "code")

    def facts(self, file: str) -> dict[str, str]:
        """Class and what rides along, by a file's name; nothing where it is named otherwise."""
        found = re.fullmatch(self.pattern, file, re.IGNORECASE)
        if found is None:
            return {}
        said = {name: text.upper() for name, text in found.groupdict().items() if text}
        return {"class": self.codes[said.pop("code")], **said}


KDEF = NamedFiles(
    kind="kdef",
    pattern=r"(?P<session>[AB])(?P<person>[FM]\d\d)(?P<code>AF|AN|DI|HA|NE|SA|SU)(?P<angle>FL|HL|S|HR|FR)\.\w+",
    codes={
        "AF": "Fear",
        "AN": "Anger",
        "DI": "Disgust",
        "HA": "Happy",
        "NE": "Neutral",
        "SA": "Sad",
        "SU": "Surprise",
    },
)
"""``KDEF/AF01/AF01AFS.JPG``: session A or B, sex and number of the person, expression, angle."""
JAFFE = NamedFiles(
    kind="jaffe",
    pattern=r"(?P<person>[A-Z]{2})\.(?P<code>AN|DI|FE|HA|NE|SA|SU)\d\.\d+\.\w+",
    codes={
        "AN": "Anger",
        "DI": "Disgust",
        "FE": "Fear",
        "HA": "Happy",
        "NE": "Neutral",
        "SA": "Sad",
        "SU": "Surprise",
    },
)
"""``KA.AN1.39.tiff``: person, expression and number of the take, number of the picture."""
NAMED_FILES = (KDEF, JAFFE)

FER_PLUS_CHOICES = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF",
)  # fmt: skip
"""Columns of votes of ``fer2013new.csv``; NF is no face."""
PIXEL_ORDERS = {"fer2013": FER2013, "ckextended": (*FER2013, "Contempt")}
"""Meaning of 0, 1, ... in tables of pixels."""
EXPW_COLUMNS = ("image_name", "face_id_in_image", "top", "left", "right", "bottom", "confidence", "expression")
"""Fields of ExpW's ``label.lst``, which has no header and blanks between its fields."""
AFFECTNET_COPY = {"path": "pth", "label": "label", "confidence": "relFCs"}
"""Columns of ``labels.csv`` in the copies of AffectNet on Kaggle; ``pth`` begins with a class folder."""
RAF_DB_CHOICES = RAF_DB
"""Order of the shares in ``distribution_basic.txt``."""
SUBSETS = ("easy", "challenging", "difficult")
"""Meaning of ``subset`` in AffectNet+."""
