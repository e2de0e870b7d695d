"""Choose where to split a network, how many views to cache there, and in memory or on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tlnb.core.training.run import Cache
from tlnb.core.training.split_point import Place

CACHED_VIEWS = 10  # views of every image that a cache holds: the image itself, the others augmented
VIEW_FLOPS = 1e12  # for all views together; about ten seconds of two CPU cores
PRICE = {
    "memory": 1.0,
    "disk": 50.0,
}  # of reading a byte of cache, in FLOPs that take as long; rough, and fixed


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Where to split, how many views to cache, and where to keep them."""

    place: Place
    views: int
    where: str  # memory, disk
    bytes: int  # of everything that is kept

    @property
    def price(self) -> float:
        """Of reading the training images once, in FLOPs that take as long."""
        return PRICE[self.where] * self.place.numbers * 4


@dataclass(frozen=True)
class Last:
    """The last place: what reaches the output layers."""

    place: Place


@dataclass(frozen=True, kw_only=True)
class Demand:
    """How much is to be cached, and the room for it."""

    images: int  # of training
    fixed: int  # of the splits that are judged by
    epochs: int
    augmented: bool
    number_bytes: int
    memory: int  # bytes
    disk: int
    before: Cache | None = None  # what an interrupted run had chosen, which is chosen again

    @property
    def rows(self) -> int:
        """The most rows that a cache would hold, all views counted."""
        views = min(CACHED_VIEWS, self.epochs) if self.augmented else 1
        return views * self.images + self.fixed

    def cheapest(self, found: Sequence[Place]) -> Choice | None:
        """By bytes read and FLOPs computed again, never by the clock. None if caching costs more."""
        if self.before is not None:
            found = [place for place in found if place.at == self.before.at] or found
        last, passes = found[-1].flops, self.epochs * self.images

        def cost(choice: Choice) -> tuple[float, int]:
            again = passes * (last - choice.place.flops)
            # of equals the last: what costs no FLOPs takes time too
            return again + passes * choice.price, -found.index(choice.place)

        best = min((c for place in found for c in self._ways(place)), key=cost, default=None)
        worth = best is not None and (self.before is not None or cost(best)[0] < passes * last)
        return best if worth else None

    def _ways(self, place: Place) -> Iterator[Choice]:
        one = place.numbers * self.number_bytes
        fixed, view, views = self.fixed * one, self.images * one, self._views(place)
        for where, most in (("memory", self.memory), ("disk", self.disk)):
            if views * view + fixed <= most:
                yield Choice(place=place, views=views, where=where, bytes=views * view + fixed)
                return
        fewer = int((self.memory - fixed) // view)
        if 1 <= fewer < views:
            yield Choice(place=place, views=fewer, where="memory", bytes=fewer * view + fixed)

    def _views(self, place: Place) -> int:
        if self.before is not None:
            return self.before.views
        affordable = VIEW_FLOPS // (self.images * max(place.flops, 1.0))
        wanted = int(max(1, min(CACHED_VIEWS, self.epochs, affordable)))
        return wanted if self.augmented else 1
