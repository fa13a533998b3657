"""The venue's HTTP surface, shaped as Binance's USD-M REST interface."""
