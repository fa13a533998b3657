"""Enumerations of decisions and orders. Their values are what travels on the bus."""

from enum import StrEnum


class Action(StrEnum):
    """What a model says about a symbol at a bar. SELL(0), HOLD(1), BUY(2) is the class order everywhere."""

    SELL = "SELL"
    HOLD = "HOLD"
    BUY = "BUY"

    @property
    def class_index(self) -> int:
        return CLASS_ORDER.index(self)


CLASS_ORDER: tuple[Action, ...] = (Action.SELL, Action.HOLD, Action.BUY)


class Intent(StrEnum):
    """What an approval wants: a new position, or the end of the present one."""

    OPEN = "open"
    CLOSE = "close"


class OrderSide(StrEnum):
    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> "OrderSide":
        return OrderSide.SELL if self is OrderSide.BUY else OrderSide.BUY


class Role(StrEnum):
    """Why an order exists. Part of its client order id."""

    ENTRY = "entry"
    STOP = "stop"
    TAKE_PROFIT = "take_profit"
    EXIT = "exit"
