"""Order states as a table. A row that looks odd carries its reason."""

from enum import StrEnum


class OrderState(StrEnum):
    SUBMITTING = "submitting"
    """Intent written; the venue has not yet proven that it has the order."""
    OPEN = "open"
    """The venue has it and it may still trade."""
    CANCELING = "canceling"
    """We want it gone; the venue has not yet proven that it is."""
    SETTLING = "settling"
    """Over at the venue, but trades that it reports as executed have not been taken in."""
    FILLED = "filled"
    CANCELED = "canceled"
    REJECTED = "rejected"


class ReportStatus(StrEnum):
    """What the venue says of an order."""

    OPEN = "open"
    FILLED = "filled"
    CANCELED = "canceled"
    """Cancelled or expired, perhaps after a partial execution."""
    REJECTED = "rejected"


TERMINAL = frozenset({OrderState.FILLED, OrderState.CANCELED, OrderState.REJECTED})

_S, _R = OrderState, ReportStatus

AFTER_REPORT: dict[tuple[OrderState, ReportStatus], OrderState] = {
    (_S.SUBMITTING, _R.OPEN): _S.OPEN,
    (_S.SUBMITTING, _R.FILLED): _S.SETTLING,
    (_S.SUBMITTING, _R.CANCELED): _S.SETTLING,
    (_S.SUBMITTING, _R.REJECTED): _S.REJECTED,
    (_S.OPEN, _R.OPEN): _S.OPEN,
    (_S.OPEN, _R.FILLED): _S.SETTLING,
    (_S.OPEN, _R.CANCELED): _S.SETTLING,
    # A conditional order is accepted when placed and may be refused when it triggers.
    (_S.OPEN, _R.REJECTED): _S.SETTLING,
    # The cancel has not arrived yet: keep asking for it.
    (_S.CANCELING, _R.OPEN): _S.CANCELING,
    # The fill was faster than the cancel.
    (_S.CANCELING, _R.FILLED): _S.SETTLING,
    (_S.CANCELING, _R.CANCELED): _S.SETTLING,
    (_S.CANCELING, _R.REJECTED): _S.SETTLING,
    # An older answer that arrives late does not bring an order back.
    (_S.SETTLING, _R.OPEN): _S.SETTLING,
    (_S.SETTLING, _R.FILLED): _S.SETTLING,
    (_S.SETTLING, _R.CANCELED): _S.SETTLING,
    (_S.SETTLING, _R.REJECTED): _S.SETTLING,
}
"""Orders in a terminal state are no longer in the book, so a report on one changes nothing."""
