"""Sellers' accounts: connecting them, keeping their tokens alive, and speaking to Allegro in their name."""
