"""Whether a base's tokenizer reads the token and the captions as they are meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dreamtune.data.images import Remark
from dreamtune.data.survey import Photo

_END = "</w>"
"""CLIP's mark of the end of a word."""
_RARE = "use a rare word such as sks: one that means something already keeps some of that meaning"
_LARGE = 10_000
"""Size from which a vocabulary was learned from real text, so that its order tells what is common."""


def token_remarks(token: str, class_word: str, tokenizer: Any) -> list[Remark]:
    """At most one remark on a token that the base already knows as something else.

    DreamBooth (Ruiz et al. 2023, section 3.1) wants a rare identifier: common words bring their own meaning, which
    training has to unlearn. A word counts as known if it is one entry of the CLIP tokenizer's vocabulary, and as
    common if that is in the first half of a large one: entries stand in the order in which they were merged, the
    most frequent first.
    """
    words = token.lower().split()
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    known = [word for word in words if word.isalpha() and len(word) > 1 and word + _END in vocabulary]
    if len(known) > 1:
        problem = f"is several common words ({', '.join(known)})"
    elif set(words) & set(class_word.lower().split()):
        problem = f"holds the class word ({class_word})"
    elif len(words) == 1 and known and len(vocabulary) > _LARGE and vocabulary[words[0] + _END] < len(vocabulary) / 2:
        problem = "is a common word"
    else:
        return []
    return [Remark(f"token {token!r}", problem, _RARE)]


def caption_remarks(photos: Sequence[Photo], tokenizer: Any) -> list[Remark]:
    """A remark on each caption that is longer than the text encoder reads."""
    remarks = []
    room = tokenizer.model_max_length - 2  # its first and last entry are marks
    for photo in photos:
        length = len(tokenizer.tokenize(photo.caption)) if photo.caption else 0
        if length > room:
            problem = f"has a caption of {length} tokens, of which the base reads {room}"
            remarks.append(Remark(photo.file, problem, "shorten it: the end is cut off"))
    return remarks
