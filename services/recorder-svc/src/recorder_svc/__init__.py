"""Archives every stream by day and keeps the ledger of orders, fills, trades and balances."""
