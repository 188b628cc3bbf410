"""Spans in sequences of labels: the four schemes of the field, told apart, read and written.

A label is ``O`` or a tag and a type, such as ``B-PER``; a tag may stand alone where there is one type only.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from lt_cli.errors import UserError

Scheme = Literal["iob1", "bio", "bioes", "bilou"]

TAGS: dict[Scheme, str] = {"iob1": "BIO", "bio": "BIO", "bioes": "BIOES", "bilou": "BILOU"}
"""The tags of each scheme: begin, inside, outside, end or last, single or unit."""


class Span(NamedTuple):
    """A typed stretch of a sequence; end is exclusive, and the type is empty where labels are bare tags."""

    type: str
    start: int
    end: int


@lru_cache(maxsize=4096)
def _parts(label: str) -> tuple[str, str] | None:
    """Tag and type of a label, with BILOU's names for the last and only token; None where it is no such label."""
    tag, dash, type_ = label[:1], label[1:2], label[2:]
    if label == "O" or (tag and tag in "BIESLU" and (not dash or (dash == "-" and type_))):
        return {"E": "L", "S": "U"}.get(tag, tag), type_
    return None


def scheme_of(sequences: Iterable[Sequence[str]]) -> Scheme | None:
    """The scheme that label sequences are written in; None where they are no spans, as in part-of-speech tagging.

    IOB1 (Ramshaw and Marcus 1995, https://aclanthology.org/W95-0107) and BIO share their tags: it is IOB1 where more
    spans begin with I- than with B-, those directly behind a span of their type not counted, as they begin with B- in
    both. What fits both is BIO. Tags of BIOES beside those of BILOU are no scheme.
    """
    tags: set[str] = set()
    begun = {"B": 0, "I": 0}
    for labels in sequences:
        before = ("O", "")
        for label in labels:
            if (parts := _parts(label)) is None:
                return None
            tags.add(label[0])
            if parts[0] in begun and (before[0] == "O" or before[1] != parts[1]):
                begun[parts[0]] += 1
            before = parts
    if tags <= set(TAGS["bio"]):
        return ("iob1" if begun["I"] > begun["B"] else "bio") if tags else None
    return next((scheme for scheme in ("bioes", "bilou") if tags <= set(TAGS[scheme])), None)


def spans(labels: Sequence[str], scheme: Scheme) -> list[Span]:
    """The spans of one sequence, well-formed or not, as conlleval and seqeval in its default mode read them.

    A label goes on with the span before it where that is of its type, its own tag is I- or E-, and the tag before is
    B- or I-; every other label but O begins a span (https://www.cnts.ua.ac.be/conll2000/chunking/conlleval.txt).

    Raises:
        UserError: If a label is none of the scheme's.
    """
    found: list[Span] = []
    before = ("O", "")
    for i, label in enumerate(labels):
        parts = _parts(label)
        if parts is None or label[0] not in TAGS[scheme]:
            raise UserError(f"the label {label!r} is none of the scheme {scheme}, whose tags are {TAGS[scheme]}")
        tag, type_ = parts
        if tag in "IL" and before[0] in "BI" and before[1] == type_:
            found[-1] = found[-1]._replace(end=i + 1)
        elif tag != "O":
            found.append(Span(type_, i, i + 1))
        before = parts
    return found


def _written(found: Sequence[Span], length: int, scheme: Scheme) -> list[str]:
    """The labels of spans in a sequence of this length."""
    labels = ["O"] * length
    last, single = {"bioes": ("E", "S"), "bilou": ("L", "U")}.get(scheme, ("I", "B"))
    before = Span("", -1, -1)
    for span in found:
        size = span.end - span.start
        tags = [single] if size == 1 else ["B", *"I" * (size - 2), last]
        if scheme == "iob1" and (before.end, before.type) != (span.start, span.type):
            tags[0] = "I"
        labels[span.start : span.end] = [f"{tag}-{span.type}" if span.type else tag for tag in tags]
        before = span
    return labels


def to_bio(labels: Sequence[str], scheme: Scheme) -> list[str]:
    """The same spans in BIO."""
    return _written(spans(labels, scheme), len(labels), "bio")


def from_bio(labels: Sequence[str], scheme: Scheme) -> list[str]:
    """The same spans, of BIO labels that need not be well-formed, in another scheme."""
    return _written(spans(labels, "bio"), len(labels), scheme)
