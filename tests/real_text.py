"""Real English text: sentences of speeches and labelled e-mails out of the packages that tests/downloads.py fetches."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tests.downloads import EMAILS, SPEECHES

SHORTEST, LONGEST = 40, 300

# Lists of sentences that share none: what speed is measured on, what quality is measured on, what a quantizer is calibrated with.
PURPOSES = ("speed", "quality", "calibration")

# A full stop after a lower case letter or digit ends a sentence; after a capital or "Mr" it is an initial or a title.
_SENTENCE_END = re.compile(r"(?<=[a-z0-9\"')][.!?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)\s+(?=[\"'(]?[A-Z])")
_TAG = re.compile(r"<[^<>]{1,200}>")
_SUBJECT = re.compile(r"^subject:(.*)$", re.IGNORECASE | re.MULTILINE)


def sentences(purpose: str, count: int) -> list[str]:
    """Different sentences of 40 to 300 characters, evenly spread over 230 years, in order of time."""
    found: dict[str, None] = {}
    for _, content in _documents(SPEECHES.fetch()):
        found.update(dict.fromkeys(split_sentences(content["text"])))
    own = list(found)[PURPOSES.index(purpose) :: len(PURPOSES)]
    return [own[i * len(own) // count] for i in range(count)]


def length_mixes(count: int) -> dict[str, list[str]]:
    """Texts of three mixes of lengths: queries of 2 to 8 words, sentences, and all from a query to a paragraph of 8 sentences."""
    chosen = sentences("speed", count)
    short = [" ".join(text.split()[: 2 + i % 7]) for i, text in enumerate(chosen)]
    paragraphs = [" ".join(chosen[i : i + 3 + i % 6]) for i in range(count)]
    return {
        "short": short,
        "sentences": chosen,
        "mixed": [(short, chosen, paragraphs)[i % 3][i] for i in range(count)],
    }


def split_sentences(text: str) -> list[str]:
    """The sentences of 40 to 300 characters in a text that begin with a capital letter and are complete."""
    parts = [part for line in text.splitlines() for part in _SENTENCE_END.split(" ".join(line.split()))]
    return [part for part in parts if SHORTEST <= len(part) <= LONGEST and part[0].isupper() and part[-1] in ".!?"]


def emails(count: int, most_characters: int) -> tuple[list[str], list[bool]]:
    """Subject and body of different e-mails, and whether each is spam.

    They are in the order of the digests in their names (00001.DIGEST.json), which mixes spam and ham. No other header
    is read: it would tell where the mail was collected, which gives the label away.
    """
    found: dict[str, bool] = {}
    for _, content in sorted(_documents(EMAILS.fetch()), key=lambda document: document[0].split(".")[1]):
        found.setdefault(_subject_and_body(content["text"])[:most_characters], content["group"].startswith("spam"))
    found.pop("", None)
    chosen = [(text, spam) for text, spam in found.items()][:count]
    return [text for text, _ in chosen], [spam for _, spam in chosen]


def _subject_and_body(mail: str) -> str:
    header, _, body = mail.replace("\r\n", "\n").partition("\n\n")
    subject = _SUBJECT.search(header)
    text = f"{subject[1] if subject else ''} {_TAG.sub(' ', body)}"
    # An unpaired surrogate is no text; what is left of a mail in another encoding is replaced, as a mail reader would.
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def _documents(archive: Path) -> Iterator[tuple[str, dict]]:
    """Name and content of every document of a dataset, by name."""
    with tarfile.open(archive) as opened:
        members = {member.name: member for member in opened.getmembers() if member.isfile()}
        for name in sorted(members):
            if name.startswith("package/data/") and name.endswith(".json") and not name.endswith("file_list.json"):
                file = opened.extractfile(members[name])
                assert file is not None, "only regular files are looked at"
                yield name, json.load(file)
