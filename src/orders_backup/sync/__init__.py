"""Keeping the archive level with Allegro: what is due, what to fetch, and the proof that nothing is missing."""
