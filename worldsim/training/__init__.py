"""Training: one loop, and what it trains."""
