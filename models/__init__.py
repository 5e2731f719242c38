"""Features or candles to a view of the market. Serving them is consumers/predict."""
