"""Who speaks: roles, prompts, parsers, and the engines and policies behind them."""
