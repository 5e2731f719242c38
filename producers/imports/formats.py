"""Names of the formats that can be imported; on its own so that the command line's help needs nothing else."""

from typing import Literal

Format = Literal["upbit-raw", "upbit-parquet", "binance-books", "binance-trades", "csv"]
