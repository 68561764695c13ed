"""The kill campaign: the real processes, killed in the middle of their work, and checkers of what is left."""
