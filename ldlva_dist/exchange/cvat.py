"""CVAT: images XML 1.1 with one tag an image; given, proposed, suspicion and decision are the tag's attributes.

A file is read as UTF-8 without a document type, so that it can define no entities and name no other file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree
from xml.parsers import expat

import pyarrow as pa

from ldlva_dist import storage
from ldlva_dist.errors import DataError
from ldlva_dist.exchange.common_form import (
    MAX_TEXT,
    LabelIssue,
    Listed,
    as_issues,
    as_table,
    facts_of,
    issue_of,
    need,
    read_whole,
    text_at,
)

FILE = "annotations.xml"
FACTS = ("given", "proposed", "suspicion", "decision")


def write_cvat(folder: str, listed: Listed) -> list[str]:
    """Write annotations.xml; returns its address."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    labels = ElementTree.SubElement(task, "labels")
    for name in listed.class_names:
        label = _with_texts(labels, "label", {"name": name, "type": "tag"})
        attributes = ElementTree.SubElement(label, "attributes")
        for fact in FACTS:
            texts = {"name": fact, "mutable": "False", "input_type": "text", "default_value": "", "values": ""}
            _with_texts(attributes, "attribute", texts)
    images = zip(as_issues(listed.rows), listed.image_names, listed.image_sizes, strict=True)
    for number, (row, name, (width, height)) in enumerate(images):
        place = {"id": str(number), "name": name, "width": str(width), "height": str(height)}
        image = ElementTree.SubElement(root, "image", place)
        tag = ElementTree.SubElement(image, "tag", {"label": row.decision or row.given or "", "source": "manual"})
        for fact, value in facts_of(row).items():
            ElementTree.SubElement(tag, "attribute", {"name": fact}).text = str(value)
    ElementTree.indent(root)
    uri = storage.join(folder, FILE)
    storage.write_bytes(uri, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
    return [uri]


def read_cvat(uri: str) -> pa.Table:
    """An annotations.xml: a row for each tag, and one without a decision for an image that has none."""
    reader = _Reader(uri)
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = reader.refuse_doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(read_whole(uri), True)
    except expat.ExpatError as error:
        raise DataError(f"{uri} is no readable XML: {str(error)[:100]}") from error
    if not reader.is_cvat:
        raise DataError(f"{uri} must be CVAT's annotations, but its first element is another one")
    return as_table(reader.rows)


@dataclass
class _Reader:
    """What stands in the tags that the parser has passed."""

    uri: str
    rows: list[LabelIssue] = field(default_factory=list)
    is_cvat: bool = False
    image: str | None = None
    num_tags: int = 0
    """Tags of the image."""
    label: str | None = None
    """Class of the tag that is open."""
    facts: dict[str, str] = field(default_factory=dict)
    fact: str | None = None
    """Attribute of the tag that is open."""

    def refuse_doctype(self, *_: object) -> None:
        """DataError: only with a document type can a file define entities."""
        raise DataError(f"{self.uri} must have no document type (<!DOCTYPE ...>), and has one")

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """An element opens."""
        if name == "annotations":
            self.is_cvat = True
        elif name == "image":
            self.image = attributes.get("name", "").replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
            text_at(self.image, f"{self.uri}, name of image {attributes.get('id', '')[:20]!r} without its extension")
            self.num_tags = 0
        elif name == "tag" and self.image is not None:
            self.label, self.facts = text_at(attributes.get("label"), f"{self._place}, label"), {}
        elif name == "attribute" and self.label is not None:
            self.fact = attributes.get("name", "")
            self.facts[self.fact] = ""

    def text(self, text: str) -> None:
        """Letters of an element, or some of them."""
        if self.fact is not None:
            whole = self.facts[self.fact] + text
            need(len(whole) <= MAX_TEXT, f"{self._place}, {self.fact:.80}", f"of at most {MAX_TEXT} letters", whole)
            self.facts[self.fact] = whole

    def end(self, name: str) -> None:
        """An element closes."""
        if name == "attribute":
            self.fact = None
        elif name == "tag" and self.image is not None:
            self.rows.append(issue_of(self.image, self.label, self.facts, self._place))
            self.label, self.num_tags = None, self.num_tags + 1
        elif name == "image" and self.image is not None:
            if not self.num_tags:
                self.rows.append(LabelIssue(self.image))
            self.image = None

    @property
    def _place(self) -> str:
        return f"{self.uri}, image {self.image!r:.80}"


def _with_texts(parent: ElementTree.Element, name: str, texts: Mapping[str, str]) -> ElementTree.Element:
    """A child whose children are texts."""
    child = ElementTree.SubElement(parent, name)
    for inner, text in texts.items():
        ElementTree.SubElement(child, inner).text = text
    return child
