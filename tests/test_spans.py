"""Spans in label sequences."""

import itertools
import random

import pytest

from lt_cli.errors import UserError
from lt_cli.spans import TAGS, Scheme, Span, from_bio, scheme_of, spans, to_bio


def conlleval(labels: list[str]) -> list[Span]:
    """The rules of conlleval's startOfChunk and endOfChunk, one after the other, with S- as in seqeval."""
    found, start = [], 0
    before, before_type = "O", ""
    for i, label in enumerate([*labels, "O"]):
        tag, type_ = label[0], label[2:]
        ends = (
            (before in "BI" and tag in "BSO")
            or before in "ES"
            or (before != "O" and before_type != type_)  # conlleval's last rule
        )
        starts = tag in "BS" or (before in "ESO" and tag in "EI") or (tag != "O" and before_type != type_)
        if ends:
            found.append(Span(before_type, start, i))
        if starts:
            start = i
        before, before_type = tag, type_
    return found


def sequences(tags: str, types: str = "XY", longest: int = 4) -> list[list[str]]:
    """Every sequence of at most so many labels."""
    labels = ["O", *(f"{tag}-{type_}" for tag in tags if tag != "O" for type_ in types)]
    return [list(found) for length in range(longest + 1) for found in itertools.product(labels, repeat=length)]


@pytest.mark.parametrize("scheme", ["iob1", "bio", "bioes"])
def test_spans_are_conllevals_on_every_short_sequence(scheme: Scheme) -> None:
    for labels in sequences(TAGS[scheme]):
        assert spans(labels, scheme) == conlleval(labels), labels


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ("I-X I-X O I-Y", [("X", 0, 2), ("Y", 3, 4)]),
        ("B-X I-Y I-Y B-Y", [("X", 0, 1), ("Y", 1, 3), ("Y", 3, 4)]),
        ("O E-X I-X E-X", [("X", 1, 2), ("X", 2, 4)]),
        ("B-X S-X I-X E-X", [("X", 0, 1), ("X", 1, 2), ("X", 2, 4)]),
        ("B-X E-X E-X B-X B-X", [("X", 0, 2), ("X", 2, 3), ("X", 3, 4), ("X", 4, 5)]),
        ("I I B I O E", [("", 0, 2), ("", 2, 4), ("", 5, 6)]),
        ("B-Y-Z I-Y-Z I-Y", [("Y-Z", 0, 2), ("Y", 2, 3)]),
    ],
)
def test_golden_spans(labels: str, found: list[tuple[str, int, int]]) -> None:
    """Computed with seqeval 1.2.2's get_entities, whose ends are inclusive and whose empty type is an underscore."""
    assert spans(labels.split(), "bioes") == found


def test_bilou_is_bioes_by_other_names() -> None:
    for labels in sequences(TAGS["bioes"], longest=3):
        renamed = [label.translate(str.maketrans("ES", "LU")) for label in labels]
        assert spans(renamed, "bilou") == spans(labels, "bioes")


@pytest.mark.parametrize("scheme", ["iob1", "bio", "bioes", "bilou"])
def test_round_trips_are_exact(scheme: Scheme) -> None:
    for labels in sequences("BIO"):
        bio = to_bio(labels, "bio")
        written = from_bio(labels, scheme)
        assert {label[0] for label in written} <= set(TAGS[scheme])
        assert spans(written, scheme) == spans(labels, "bio")
        assert to_bio(written, scheme) == bio
        assert from_bio(bio, scheme) == written


@pytest.mark.parametrize(
    ("scheme", "labels"),
    [
        ("iob1", "I-X I-X B-X I-Y O I"),
        ("bio", "B-X I-X B-X B-Y O B"),
        ("bioes", "B-X E-X S-X S-Y O S"),
        ("bilou", "B-X L-X U-X U-Y O U"),
    ],
)
def test_each_scheme_is_written_as_it_is_known(scheme: Scheme, labels: str) -> None:
    assert from_bio(["B-X", "I-X", "B-X", "B-Y", "O", "B"], scheme) == labels.split()


@pytest.mark.parametrize("scheme", ["iob1", "bio", "bioes", "bilou"])
def test_the_scheme_is_told_from_what_is_written_in_it(scheme: Scheme) -> None:
    rng = random.Random(0)
    texts = [rng.choices(["O", "B-X", "I-X", "B-Y", "I-Y"], k=8) for _ in range(30)]
    assert scheme_of([from_bio(labels, scheme) for labels in texts]) == scheme


@pytest.mark.parametrize(
    ("texts", "scheme"),
    [
        (["O O", "O"], "bio"),
        (["B-X O B-Y"], "bio"),
        (["B-X I-X", "B-X O", "I-X O"], "bio"),  # one slip of the annotator's
        (["I-X B-X O"], "iob1"),
        (["I-X I-X O"], "iob1"),
        (["S-X O"], "bioes"),
        (["O U-X"], "bilou"),
        (["S-X U-X"], None),
        (["DET NOUN VERB"], None),
        (["O B-X", "NN"], None),
        (["B M E"], None),
        (["B- O"], None),
        ([], None),
        (["B I O"], "bio"),
    ],
)
def test_the_scheme_of_few_labels(texts: list[str], scheme: Scheme | None) -> None:
    assert scheme_of([text.split() for text in texts]) == scheme


@pytest.mark.parametrize("label", ["NN", "", "B-", "S-X", "b-X"])
def test_a_label_of_another_scheme_is_refused(label: str) -> None:
    with pytest.raises(UserError, match=r"the label '.*' is none of the scheme bio, whose tags are BIO"):
        spans(["O", label], "bio")
