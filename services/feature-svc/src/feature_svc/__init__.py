"""feature-svc: closed candles in, features out."""
