"""The archive: every version of every order, byte for byte, and what can be asked of it."""
