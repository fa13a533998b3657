"""Executor: one approval becomes exactly one order, and every position keeps one live stop until it is closed."""
