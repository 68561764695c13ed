"""Orders leave the archive here: as JSON Lines, CSV, Parquet and the accountant's pack, streamed or as a job."""
