"""A faithful simulator of the Allegro.pl orders API and its OAuth device flow.

`world` is the core and does no I/O; `server` and `transport` put it on a socket or under httpx.
"""
