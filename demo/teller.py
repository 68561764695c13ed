"""How the demo looks: chapters, lines, tables and bars, in a terminal, in a plain log, and on a picture of it."""

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.terminal_theme import TerminalTheme
from rich.text import Text
from rich.theme import Theme

WIDTH = 88
THEME = Theme(
    {
        "chapter": "bold #ff5a00",
        "number": "#ff5a00",
        "good": "bold green",
        "bad": "bold red",
        "link": "underline cyan",
        "code": "bold yellow",
        "aside": "dim",
        "figure": "bold",
        "bar.back": "grey37",
        "bar.complete": "#ff5a00",
        "bar.finished": "green",
    }
)
PAPER = TerminalTheme(
    (22, 27, 34),
    (214, 221, 229),
    [
        (72, 79, 88),
        (255, 123, 114),
        (86, 211, 100),
        (227, 179, 65),
        (121, 192, 255),
        (210, 168, 255),
        (86, 212, 221),
        (214, 221, 229),
    ],
)
SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""Rich's own, without fonts from a foreign server."""


Advance = Callable[[int, int, float], None]


@dataclass(slots=True)
class Teller:
    """Prints to the terminal and, where `picture` names a file, to a film that becomes a picture."""

    picture: Path | None = None
    screen: Console = field(init=False)
    film: Console = field(init=False)
    chapters: int = 0

    def __post_init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        screen = Console(theme=THEME, highlight=False)
        self.screen = Console(theme=THEME, highlight=False, width=min(screen.width, WIDTH))
        self.film = Console(
            theme=THEME, highlight=False, width=WIDTH, record=True, file=io.StringIO(), force_terminal=True,
            color_system="truecolor", legacy_windows=False,
        )  # fmt: skip

    def say(self, *renderables: RenderableType) -> None:
        for renderable in renderables:
            self.screen.print(renderable)
            self.film.print(renderable)

    def title(self, title: str, sentence: str) -> None:
        self.say("", f"    [chapter]{title}[/chapter]", f"    {sentence}")

    def chapter(self, title: str) -> None:
        self.chapters += 1
        self.say("", f"[number]{self.chapters:>2}[/number]  [chapter]{title}[/chapter]")

    def line(self, text: str) -> None:
        self.say(_beside(" ", text))

    def done(self, text: str) -> None:
        self.say(_beside("[good]✓[/good]", text))

    def failed(self, text: str) -> None:
        self.say(_beside("[bad]✗[/bad]", escape(text)))

    def aside(self, text: str) -> None:
        self.screen.print(_beside(" ", f"[aside]{text}[/aside]"))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="aside", show_edge=False)
        for title in head:
            table.add_column(title)
        for row in rows:
            table.add_row(*(Text(cell, style="bad" if cell == "null" else "") for cell in row))
        self.say(Padding(table, (0, 0, 0, 6)))

    def figures(self, figures: Sequence[tuple[str, str]]) -> None:
        grid = Table.grid(padding=(0, 3))
        for name, value in figures:
            grid.add_row(Text(name, style="aside"), Text(value, style="figure"))
        self.say(Padding(grid, (0, 0, 0, 6)))

    def invitation(self, address: str, commands: Sequence[tuple[str, str]]) -> None:
        self.screen.print()
        self.screen.print(Panel(f"It stays up: [link]{address}[/link]   Ctrl-C ends it.", box=ROUNDED, padding=(0, 2)))
        for title, command in commands:
            self.screen.print(_beside(" ", f"[aside]{title}[/aside]"))
            self.screen.print(Text(command), soft_wrap=True)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        if not self.screen.is_terminal:
            self.aside(f"{what} …")
            yield
            return
        with self.screen.status(f"  [aside]{what} …[/aside]"):
            yield

    @contextmanager
    def progress(self, unit: str) -> Iterator[Advance]:
        """A bar that moves in a terminal and four lines where there is none; at the end one line stays."""
        bar = Progress(
            TextColumn("   "),
            BarColumn(32),
            TextColumn("{task.fields[words]}"),
            console=self.screen,
            transient=True,
            disable=not self.screen.is_terminal,
        )
        last = (0, 1, 0.0)
        quarter = 0
        with bar:
            task = bar.add_task("", total=None, words="")

            def advance(done: int, total: int, rate: float) -> None:
                nonlocal last, quarter
                last = (done, total, rate)
                bar.update(task, completed=done, total=total, words=_words(done, total, rate, unit))
                if not self.screen.is_terminal and done < total and 4 * done // max(total, 1) > quarter:
                    quarter = 4 * done // max(total, 1)
                    self.screen.print(_beside(" ", _words(done, total, rate, unit)))

            yield advance
        done, total, rate = last
        self.say(_bar(done, total, f"{done:,} of {total:,} {unit}, {rate:,.0f}/s"))

    def stuck(self, sentence: str, logs: Sequence[tuple[str, str]]) -> None:
        self.screen.print()
        self.screen.print(_beside("[bad]✗[/bad]", escape(sentence)))
        for name, tail in logs:
            self.screen.print(f"\n[aside]… {name}[/aside]")
            self.screen.print(Text(tail), soft_wrap=True)

    def develop(self) -> None:
        """Writes the picture."""
        if self.picture is not None:
            self.film.save_svg(str(self.picture), title="make demo", theme=PAPER, code_format=SVG, unique_id="demo")


def _beside(mark: str, text: str) -> Table:
    """A mark and a text that keeps its indentation when it wraps."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=5, justify="right")
    grid.add_column(overflow="fold")
    grid.add_row(mark, text)
    return grid


def _bar(done: int, total: int, words: str) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=5)
    grid.add_column(width=32)
    grid.add_column()
    grid.add_row("", ProgressBar(total=max(total, 1), completed=done, width=32), words)
    return grid


def _words(done: int, total: int, rate: float, unit: str) -> str:
    left = timedelta(seconds=round((total - done) / rate)) if rate else "?"
    return f"{done:,} of {total:,} {unit}  {rate:,.0f}/s  ETA {left}"
