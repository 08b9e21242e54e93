"""Patience with a peer: a budget for what costs us work and brings nothing.

Every flood attack on HTTP/2 is a legal frame sent too often: PING, SETTINGS, PRIORITY, empty DATA, window
updates by the byte (CVE-2019-9511 to 9518), streams opened only to be reset (CVE-2023-44487). Healthy clients
send all of these too, in proportion to the work they get done. So a frame of that kind is a *strike*; time
and completed work pay strikes off; too many and the connection ends with ENHANCE_YOUR_CALM. The pay-off is
computed only when the budget is exceeded, so that the hot path pays nothing for it but one counter."""

from __future__ import annotations

from oarlock.http2.errors import ConnectionFault, ErrorCode
from oarlock.http2.limits import Limits


class Budget:
    """A bounded debt that time and completed work pay off.

    Invariant: ``0 <= debt <= limit`` after every call that returns.
    """

    __slots__ = ("_limit", "_paid", "_per_second", "_per_unit", "_what", "debt")

    def __init__(self, what: str, limit: int, per_second: int, per_unit: int) -> None:
        self._what = what
        self._limit = limit
        self._per_second = per_second
        self._per_unit = per_unit
        self._paid = 0
        self.debt = 0

    def strike(self, work_done: int, weight: int = 1) -> None:
        """Count one, or a weightier one; ``work_done`` is the connection's running count of completed work.

        Raises:
            ConnectionFault: ENHANCE_YOUR_CALM, the budget is exhausted.
        """
        self.debt += weight
        if self.debt <= self._limit:
            return
        self.debt = max(0, self.debt - (work_done - self._paid) * self._per_unit)
        self._paid = work_done
        if self.debt > self._limit:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {self._what}")

    def forgive(self, seconds: float) -> None:
        """Time has passed."""
        self.debt = max(0, self.debt - int(self._per_second * seconds))


def strikes(limits: Limits) -> Budget:
    """Budget for frames that carry nothing."""
    return Budget(
        "frames that carry nothing", limits.max_strikes, limits.strikes_per_second, limits.strikes_per_stream
    )


def resets(limits: Limits) -> Budget:
    """Budget for streams that the peer opens and cancels."""
    return Budget("cancelled streams", limits.max_resets, limits.resets_per_second, 1)
