"""Rules that say when to enter and when to leave: pure, with typed parameters. `consumers.trade` asks them."""
