"""Refusals in the venue's own words: Binance's USD-M error codes and messages."""

from __future__ import annotations

from exchange_sim import SimError

MESSAGES: dict[int, str] = {
    -1000: "An unknown error occurred while processing the request.",
    -1021: "Timestamp for this request is outside of the recvWindow.",
    -1022: "Signature for this request is not valid.",
    -1100: "Illegal characters found in parameter '{}'.",
    -1102: "Mandatory parameter '{}' was not sent, was empty/null, or malformed.",
    -1111: "Precision is over the maximum defined for this asset.",
    -1115: "Invalid timeInForce.",
    -1116: "Invalid orderType.",
    -1117: "Invalid side.",
    -1120: "Invalid interval.",
    -1121: "Invalid symbol.",
    -1130: "Data sent for parameter '{}' is not valid.",
    -1131: "recvWindow must be less than 60000.",
    -2011: "Unknown order sent.",
    -2013: "Order does not exist.",
    -2014: "API-key format invalid.",
    -2015: "Invalid API-key, IP, or permissions for action.",
    -2019: "Margin is insufficient.",
    -2021: "Order would immediately trigger.",
    -2022: "ReduceOnly Order is rejected.",
    -4002: "Price greater than max price.",
    -4003: "Quantity less than or equal to zero.",
    -4004: "Quantity less than min quantity.",
    -4005: "Quantity greater than max quantity.",
    -4006: "Stop price less than or equal to zero.",
    -4013: "Price less than min price.",
    -4014: "Price not increased by tick size.",
    -4015: "Client order id length should be less than 36 chars",
    -4016: "Limit price can't be higher than {}.",
    -4023: "Qty not increased by step size.",
    -4024: "Limit price can't be lower than {}.",
    -4028: "Leverage {} is not valid",
    -4045: "Reach max stop order limit.",
    -4046: "No need to change margin type.",
    -4047: "Margin type cannot be changed if there exists open orders.",
    -4048: "Margin type cannot be changed if there exists position.",
    -4059: "No need to change position side.",
    -4061: "Order's position side does not match user's setting.",
    -4084: "Method is not allowed currently. Coming soon.",
    -4116: "ClientOrderId is duplicated.",
    -4120: "Order type not supported for this endpoint. Please use the Algo Order API endpoints instead.",
    -4140: "Invalid symbol status for opening position.",
    -4161: "Leverage reduction is not supported in Isolated Margin Mode with open positions.",
    -4164: "Order's notional must be no smaller than {} (unless you choose reduce only).",
    -5021: "Due to the order could not be filled immediately, the FOK order has been rejected.",
    -5022: "Due to the order could not be executed as maker, the Post Only order will be rejected.",
}

_UNAUTHORISED = frozenset({-2014, -2015})


class VenueError(SimError):
    """A request the venue refuses: answered as `{"code": code, "msg": msg}`."""

    def __init__(self, code: int, *details: object, message: str | None = None) -> None:
        self.code = code
        self.message = message or MESSAGES[code].format(*details)
        super().__init__(f"{code} {self.message}")

    @property
    def http_status(self) -> int:
        return 401 if self.code in _UNAUTHORISED else 400
