"""Words: what the keyword index makes of a text, what a query asks for, and which words of a text it names.

Any Unicode text can be indexed. A word is a run of letters and digits, in lower case, without accents ("Zürich" is
"zurich") and, unless the stemmer is "none", without endings ("running" is "run"). Widths and ligatures make no
difference (NFKC); combining marks that remain, such as Hebrew points, Arabic vowel signs and Indic viramas, are left
out. In scripts that put no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese), and in Korean, where
particles are joined to words, every character is a word of its own; a query asks for pairs of them side by side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice, pairwise
from unicodedata import category, combining, name, normalize

from tantivy import Filter, TextAnalyzer, TextAnalyzerBuilder, Token, Tokenizer

# a SHA-256 in hex (64) or a long identifier is searched for; a line of base64 is not, and would fill the dictionary
_LONGEST_TERM_BYTES = 100
# what is written or pasted into a search box has fewer; each costs microseconds in every shard
_MAX_TERMS = 64
# each may stand for a large part of the dictionary: milliseconds
_MAX_PREFIXES = 4
_MAX_QUERY_CHARS = 10_000
_MAX_HIGHLIGHTS = 200
_PAIR = 2
_UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA", "HANGUL ", "IDEOGRAPHIC ITERATION", "THAI ", "LAO ", "KHMER ", "MYANMAR ")
_QUOTES = str.maketrans(dict.fromkeys("“”„‟", '"'))
_PART = re.compile(r'(?P<minus>(?<!\S)-)?(?:"(?P<phrase>[^"]+)"|(?P<word>[^\s"]+))')
# words too common to show why a text was found
_COMMON = (
    "a an and are as at be but by do does for from has have how i if in into is it its not of on or that the their "
    "then there these they this to was what when where which who why will with you your"
)

Phrase = tuple[tuple[int, str], ...]
"""Terms with their places, the first at 0; a single word is a phrase of one."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a query asks for, in the terms of the index.

    words: any of them; pairs of characters of an unspaced script are among them. phrases: all of them. without: none
    of them. The prefixes are not stemmed.
    """

    words: tuple[Phrase, ...] = ()
    phrases: tuple[Phrase, ...] = ()
    without: tuple[Phrase, ...] = ()
    prefixes: tuple[str, ...] = ()
    without_prefixes: tuple[str, ...] = ()


@lru_cache(maxsize=16)
def analyzer(stemmer: str) -> TextAnalyzer:
    """What makes terms of a folded text. Raises ValueError for a language that tantivy has no stemmer for."""
    built = TextAnalyzerBuilder(Tokenizer.simple()).filter(Filter.ascii_fold()).filter(Filter.lowercase())
    built = built.filter(Filter.remove_long(_LONGEST_TERM_BYTES + 1))
    # the last step, so that the terms with and without it correspond one to one
    return (built if stemmer == "none" else built.filter(Filter.stemmer(stemmer))).build()


def fold(text: str) -> str:
    """The text as it must be given to the analyzer; half surrogate pairs become question marks."""
    if text.isascii():
        return text
    return normalize("NFKC", text.encode(errors="replace").decode()).translate(_FOLDED)


@lru_cache(maxsize=1024)
def parse(query: str, stemmer: str) -> Asked:
    """Plain text from a search box; whatever it is, it asks for something or for nothing.

    "A phrase" must be there, `shar*` is a prefix, a leading minus excludes a word, a phrase or a prefix. All else is
    words, of which any may be there. Of a long query the first 64 distinct terms count, and of its prefixes the first
    4 (others are words): a bound to what one search may cost. Raises ValueError for an unknown stemmer.
    """
    asking = _Asking(stemmer)
    for minus, quoted, word in _parts(query):
        asking.add(minus, quoted, word)
    return Asked(
        tuple(asking.words),
        tuple(asking.phrases),
        tuple(asking.without),
        tuple(prefix for prefix, minus in asking.prefixes.items() if not minus),
        tuple(prefix for prefix, minus in asking.prefixes.items() if minus),
    )


def highlights(query: str, text: str, stemmer: str = "english") -> list[tuple[int, int]]:
    """Spans [start, end) in code points of the words of `text` that the query names, ascending, 200 at most.

    Words are compared as the index compares them; those of phrases are marked one by one. Common English words are
    marked only if the query has no others. Raises ValueError for a language that tantivy has no stemmer for.
    """
    asked = parse(query, stemmer)
    terms = {term for phrase in asked.words if len(phrase) == 1 for _, term in phrase}
    terms |= {term for phrase in asked.phrases for _, term in phrase}
    if stemmer in ("english", "none") and terms - _common(stemmer) | set(asked.prefixes):
        terms -= _common(stemmer)
    if not (asked.words or asked.phrases or asked.prefixes):
        return []
    folded, made_of = _traced(text)
    spans = _marked(folded, terms, asked, stemmer)
    if made_of is not None:
        spans = _joined((made_of[start][0], made_of[end - 1][1]) for start, end in spans)
    return list(islice(spans, _MAX_HIGHLIGHTS))


class _Asking:
    """Gathers what the parts of one query ask for, in their order, until it is enough."""

    def __init__(self, stemmer: str) -> None:
        self._analyzer = analyzer(stemmer)
        self._left = _MAX_TERMS
        self.words: dict[Phrase, None] = {}
        self.phrases: dict[Phrase, None] = {}
        self.without: dict[Phrase, None] = {}
        self.prefixes: dict[str, bool] = {}  # whether excluded

    def add(self, minus: bool, quoted: str, word: str) -> None:
        """One part: either in quotes or between spaces."""
        tokens = self._analyzer.pre_tokenize(fold(quoted or word)).tokens
        prefix = _prefix(word) if len(self.prefixes) < _MAX_PREFIXES else None
        if prefix is not None and self._left > 0:
            tokens.pop()
            self._left -= prefix not in self.prefixes
            self.prefixes.setdefault(prefix, minus)
        tokens = tokens[: max(0, self._left)]  # the beginning of a phrase finds all that the phrase finds
        if minus:
            self._take(self.without, [_phrase(tokens)])
        elif quoted:
            self._take(self.phrases, [_phrase(tokens)])
        else:
            self._take(self.words, _any(tokens))

    def _take(self, into: dict[Phrase, None], found: list[Phrase]) -> None:
        for phrase in found:
            if phrase and phrase not in into and self._left > 0:
                self._left -= len(phrase)
                into[phrase] = None


class _Folded(dict[int, str]):
    """By code point, filled as they are met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = folded = "" if combining(char) else f" {char} " if _is_unspaced(char) else char
        return folded


_FOLDED = _Folded()


def _is_unspaced(char: str) -> bool:
    return name(char, "").startswith(_UNSPACED)


def _parts(query: str) -> Iterator[tuple[bool, str, str]]:
    """(excluded, what is in quotes, or else what is between spaces), in their order."""
    given = query[:_MAX_QUERY_CHARS].encode(errors="replace").decode()
    for part in _PART.finditer(normalize("NFKC", given).translate(_QUOTES)):
        yield part["minus"] is not None, part["phrase"] or "", part["word"] or ""


def _prefix(word: str) -> str | None:
    """What the word's last term must begin with, if it ends in a letter or digit and an asterisk."""
    if not word.endswith("*") or not word[-2:-1].isalnum() or _is_unspaced(word[-2]):
        return None
    terms = analyzer("none").analyze(fold(word))
    return terms[-1] if terms else None


def _phrase(tokens: list[Token]) -> Phrase:
    return tuple((token.position - tokens[0].position, token.text) for token in tokens)


def _any(tokens: list[Token]) -> list[Phrase]:
    """Each word alone, but characters of an unspaced script in overlapping pairs: alone they mean too little."""
    found: list[Phrase] = []
    for unspaced, run in groupby(tokens, key=lambda token: _is_unspaced(token.text[0])):
        alone = list(run)
        if unspaced and len(alone) > 1:
            found.extend(_phrase(list(pair)) for pair in pairwise(alone))
        else:
            found.extend(_phrase([token]) for token in alone)
    return found


@lru_cache(maxsize=4)
def _common(stemmer: str) -> frozenset[str]:
    return frozenset(analyzer(stemmer).analyze(_COMMON))


def _marked(folded: str, terms: set[str], asked: Asked, stemmer: str) -> Iterator[tuple[int, int]]:
    """Spans of the folded text. Characters of unspaced scripts count where they stand as they were asked for."""
    tokens = analyzer(stemmer).pre_tokenize(folded).tokens
    found = [token.text for token in tokens]
    hit = [term in terms for term in found]
    if asked.prefixes:
        words = analyzer("none").analyze(folded)
        hit = [is_hit or word.startswith(asked.prefixes) for is_hit, word in zip(hit, words, strict=True)]
    if pairs := {(pair[0][1], pair[1][1]) for pair in asked.words if len(pair) == _PAIR}:
        for at, pair in enumerate(pairwise(found)):
            if pair in pairs:
                hit[at] = hit[at + 1] = True
    for token, is_hit in zip(tokens, hit, strict=True):
        if is_hit:
            yield token.char_offset_from, token.char_offset_to


def _joined(spans: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Spans that touch, as those of Chinese characters do, as one."""
    start = end = -1
    for span in spans:
        if span[0] > end:
            if start >= 0:
                yield start, end
            start = span[0]
        end = max(end, span[1])
    if start >= 0:
        yield start, end


def _traced(text: str) -> tuple[str, list[tuple[int, int]] | None]:
    """The folded text, and for each of its code points the span it was made of; None where it is the same."""
    if text.isascii():
        return text, None
    pieces, spans = [], []
    for start, end in pairwise(_cluster_starts(text)):
        pieces.append(fold(text[start:end]))
        spans += [(start, end)] * len(pieces[-1])
    return "".join(pieces), spans


def _cluster_starts(text: str) -> Iterator[int]:
    """Where a character begins that does not combine with what precedes it; and the end of the text."""
    yield 0
    for at in range(1, len(text)):
        char = text[at]
        if char.isascii() or not (category(char)[0] == "M" or "\u1160" <= char <= "\u11ff"):  # vowels, finals of Korean
            yield at
    yield len(text)
