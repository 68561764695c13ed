"""Everything that speaks to Allegro: its addresses, headers, field names and errors are known in here only."""
