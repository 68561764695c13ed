"""Webhooks: whoever wants to know is told of changes, in order, signed, until he has them."""
