"""How far back Allegro looks, as its documents and staff tell it. PURE: no I/O, no clock."""

from datetime import timedelta

REACH = timedelta(days=360)
"""How far back windows are proven: a little less than the 12 months that Allegro guarantees (Allegro's staff, 2025),
so that orders falling off at that edge do not move under a window. Older ones are kept as long as they are listed."""
JOURNAL = timedelta(days=60)
"""How long Allegro keeps its event journal (Allegro's documentation)."""
