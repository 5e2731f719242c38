"""Files of others into an archive: raw frames, Parquet, CSV. The recordings' line format: `producers.recordings`."""
