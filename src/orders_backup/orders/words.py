"""The words by which an order is found, and the question for them, as PostgreSQL's text search writes both. PURE.

Letters are compared without case and accents (a Polish `ł` is an `l`). What stands between spaces is found by its
parts and as one: `111-22-33-444` by `1112233444`, `Nowak-Kowalska` by either name. From three letters on the beginning
of a word is enough.
"""

import functools
import itertools
import re
import unicodedata
import uuid
from collections.abc import Iterable, Sequence

from orders_backup.allegro.wire import OrderFacts
from orders_backup.errors import InvalidRequestError

MOST_WORDS = 1000
"""Of one version; of all that an order ever said three times as many: less than the 1 MiB that a tsvector holds."""
LONGEST = 40
"""Letters of a word that count."""
BEGINNING = 3
MOST_ASKED = 20
MOST_ACCOUNTS = 100

_PART = re.compile(r"[^\W_]+")
_NO_ACCENT = str.maketrans("łŁđĐøØı", "lLdDoOi")


def of(account_id: uuid.UUID, facts: OrderFacts) -> str:
    """The words of an order: of its ids, its buyer, its offers. Also its account, by which a question is narrowed."""
    found = [_account(account_id), *_whole(facts.order_id)]
    for email in facts.emails:
        found += [*_whole(email), *_words(email.partition("@")[0])]
    return _vector([*found, *(word for text in facts.names for word in _words(text))])


def beside(texts: Iterable[str]) -> str:
    """The words of what belongs to an order, such as tracking numbers."""
    return _vector([word for text in texts for word in _words(text)])


def together(vectors: Iterable[str]) -> str:
    """The words of several."""
    distinct = dict.fromkeys(word for vector in vectors for word in vector.split())
    return " ".join(list(distinct)[: 3 * MOST_WORDS])


def question(text: str, account_ids: Sequence[uuid.UUID] | None = None) -> str:
    """Orders that hold every word of the text, in one of the accounts; None: in any. Raises InvalidRequestError."""
    asked = [parts for chunk in _folded(text).split() if (parts := _PART.findall(chunk))]
    if not asked or sum(len(parts) for parts in asked) > MOST_ASKED:
        raise InvalidRequestError(f"q: give 1 to {MOST_ASKED} words of letters or digits.")
    terms = [_asked("".join(parts)) if len(parts) == 1 else _either(parts) for parts in asked]
    if account_ids is not None and len(account_ids) <= MOST_ACCOUNTS:
        terms.append("(" + " | ".join(f"'{_account(one)}'" for one in account_ids) + ")")
    return " & ".join(terms)


def _either(parts: Sequence[str]) -> str:
    return f"({_asked(''.join(parts))} | {' & '.join(_asked(part) for part in parts)})"


def _asked(word: str) -> str:
    return f"'{word[:LONGEST]}'" + (":*" if len(word) >= BEGINNING else "")


def _account(account_id: uuid.UUID) -> str:
    """No word of a text begins so."""
    return f"@{account_id.hex}"


def _whole(text: str) -> list[str]:
    word = "".join(_PART.findall(_folded(text)))
    return [word] if word else []


@functools.lru_cache(maxsize=20_000)
def _words(text: str) -> tuple[str, ...]:
    """Remembered, because names of people and of offers come again and again."""
    found: list[str] = []
    for chunk in _folded(text).split():
        parts = _PART.findall(chunk)
        found += parts if len(parts) <= 1 else [*parts, "".join(parts)]
    return tuple(found)


def _folded(text: str) -> str:
    if not text.isascii():
        apart = unicodedata.normalize("NFKD", text)
        text = "".join(one for one in apart if not unicodedata.combining(one)).translate(_NO_ACCENT)
    return text.casefold()


def _vector(words: Iterable[str]) -> str:
    """As PostgreSQL reads a tsvector; letters and digits alone need no escape."""
    distinct = dict.fromkeys([word[:LONGEST] for word in words])
    joined = "' '".join(itertools.islice(distinct, MOST_WORDS))
    return f"'{joined}'" if distinct else ""
