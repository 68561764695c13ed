"""Whoever keeps the service running is told when something is wrong, and when it is well again."""
