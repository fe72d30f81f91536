"""How much a token may send: so many events a second, and a burst after a pause."""

import time
from collections import OrderedDict
from dataclasses import dataclass

MOST_BUCKETS = 10_000


@dataclass
class Bucket:
    """Fills by `rate` a second up to `burst`; each event takes one out."""

    rate: float
    burst: float
    level: float
    filled_at: float

    def take(self, count: float, now: float) -> float:
        """0 when `count` was taken, else after how many seconds it can be."""
        self.level = min(self.burst, self.level + (now - self.filled_at) * self.rate)
        self.filled_at = now
        if count <= self.level:
            self.level -= count
            return 0.0
        return (count - self.level) / self.rate


class Limits:
    """A bucket for each key; the least used are forgotten, which fills them again."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[tuple[str, ...], Bucket] = OrderedDict()

    def take(
        self,
        key: tuple[str, ...],
        count: float,
        *,
        rate: float,
        burst: float,
        now: float | None = None,
    ) -> float:
        """0 when `count` may be sent, else after how many seconds it may."""
        now = time.monotonic() if now is None else now
        bucket = self._buckets.get(key)
        if bucket is None or (bucket.rate, bucket.burst) != (rate, burst):
            bucket = self._buckets[key] = Bucket(rate, burst, burst, now)
            if len(self._buckets) > MOST_BUCKETS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket.take(count, now)
