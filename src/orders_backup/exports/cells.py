"""CSV as RFC 4180 has it, and safe to open in a spreadsheet: text that would run as a formula is made text. PURE."""

import csv
import re
from collections.abc import Sequence

from orders_backup.exports.columns import Value

BOM = b"\xef\xbb\xbf"
"""Without it Excel takes UTF-8 for the machine's own code page."""

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_WORDS = {None: "", True: "true", False: "false"}
_RISKY = re.compile(r"\A[\s=+\-@＝＋－＠]|[;\t\r\n\x00]")
"""Found in every text that anything has to be done to, and in few others."""
_FORMULA = re.compile(r"(?:^|[;\t\r\n])[ \t]*(?=[=+\-@\t\r＝＋－＠])")
"""A program set to another separator (Polish Excel: the semicolon) begins a new cell there, quotes or not."""


def cell(value: Value) -> str:
    """One value as text. An apostrophe goes before what a spreadsheet would calculate; numbers stay numbers."""
    if not isinstance(value, str):
        return _WORDS[value] if value is None or isinstance(value, bool) else str(value)
    if _RISKY.search(value) is None or _NUMBER.fullmatch(value):
        return value
    return _FORMULA.sub(lambda found: found[0] + "'", value.replace("\x00", "\ufffd"))


class Lines:
    """Takes rows, gives them back as bytes."""

    def __init__(self) -> None:
        self._written: list[str] = []
        self._csv = csv.writer(self, lineterminator="\r\n")
        self.size = 0

    def write(self, line: str) -> None:
        """For the csv module."""
        self._written.append(line)
        self.size += len(line)

    def row(self, values: Sequence[Value]) -> None:
        self._csv.writerow([cell(value) for value in values])

    def taken(self) -> bytes:
        """What was written since this was asked last."""
        taken = "".join(self._written).encode()
        self._written, self.size = [], 0
        return taken
