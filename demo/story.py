"""The demo, told in the terminal: a seller's year at a simulated Allegro, backed up, changed, lost, found and proven.

`make demo` runs it and stays up; `make demo ONCE=1` ends after the proof, with 0 only if it held. ORDERS chooses how
many orders there are, DEMO_DATA_DIR where the data are kept (else in a temporary directory that is removed).
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo import chapters
from demo.stage import Interrupted, Stage, StoryError, Web, free_port, interruptible
from demo.teller import Teller

ORDERS = 1000


def tell(story: chapters.Story) -> bool:
    """The whole story. True where the proof held."""
    began = time.monotonic()
    story.tell.title("Allegro Orders Backup", "Every order, every version of it, byte for byte, and the proof of it.")
    chapters.start(story)
    chapters.connect(story)
    chapters.load_history(story)
    order_id = chapters.follow_a_purchase(story)
    chapters.cancel(story, order_id)
    chapters.merge(story)
    chapters.sweep(story)
    is_complete = chapters.certify(story)
    has_held = chapters.compare(story)
    chapters.summarize(story, time.monotonic() - began)
    return is_complete and has_held


def stay(story: chapters.Story) -> None:
    """Until Ctrl-C: where to look, and what happens."""
    has_page = story.backup.status("/") == 200
    story.tell.invitation(
        f"{story.service_url}{'/' if has_page else '/docs'}",
        [
            ("Read an order", f"curl -H 'X-API-Key: {story.key}' '{story.service_url}/api/v1/orders?limit=1'"),
            ("Let something happen", f"curl -d seller_id={chapters.SELLER} {story.allegro_url}/_simulator/happens"),
        ],
    )
    story.news()
    while True:
        for change in story.news():
            kinds = ", ".join(kind.removeprefix("order.") for kind in change["kinds"])
            head = f"{change['stored_at'][11:19]}  {change['order_id'][:8]}…  version {change['version']}"
            story.tell.done(f"{head}  {kinds}")
        time.sleep(1)


def _data_dir() -> tuple[Path, bool]:
    """Where the data go, and whether they are kept."""
    if chosen := os.environ.get("DEMO_DATA_DIR"):
        folder = Path(chosen).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return folder, True
    return Path(tempfile.mkdtemp(prefix="orders-backup-demo-")), False


def _wanted() -> int:
    text = os.environ.get("ORDERS") or str(ORDERS)
    if not text.isdigit() or not 1 <= int(text) <= 50_000:
        raise StoryError(f"ORDERS must be a number from 1 to 50000, not {text!r}.")
    return int(text)


def main() -> int:
    """0: the proof held; 1: it did not, or the story got stuck; 130: interrupted before the proof."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="end after the proof")
    parser.add_argument("--svg", type=Path, help="write a picture of the terminal to this file")
    options = parser.parse_args()
    teller = Teller(options.svg)
    is_once = options.once or os.environ.get("ONCE", "") not in {"", "0"}
    stage: Stage | None = None
    code, is_kept = 130, True
    with interruptible():
        try:
            wanted = _wanted()
            folder, is_kept = _data_dir()
            stage = Stage(folder)
            preferred = () if is_once and options.svg is None else (8000,)  # nobody opens it where it ends at once
            service_url = f"http://127.0.0.1:{free_port(*preferred)}"
            allegro_url = f"http://127.0.0.1:{free_port()}"
            story = chapters.Story(stage, teller, is_once, wanted, service_url, allegro_url, Web.at(allegro_url))
            code = 0 if tell(story) else 1
            teller.develop()
            if not is_once:
                stay(story)
        except StoryError as error:
            code = 1
            teller.stuck(str(error), list(stage.last_words()) if stage else [])
        except Interrupted:
            teller.aside("Stopping.")
        finally:
            if stage is not None:
                stage.stop()
                if not is_kept:
                    shutil.rmtree(stage.folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
