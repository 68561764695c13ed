"""Copies of everything outside the database, and the way back from them."""
