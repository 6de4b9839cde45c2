"""What goes along with a run: what freezes, what gives the frozen stages, and what measures the cost."""

from dataclasses import dataclass, replace
from typing import Self

from pytorch_lightning.callbacks import Callback

from frostline.cache.prefix_cache import PrefixCache
from frostline.cost import Meter
from frostline.engine import Freezing
from frostline.forecast import Forecast
from frostline.prepare import Prepared
from frostline.stopwatch import Stopwatch


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """The callbacks that every run has while it trains and is tested.

    Attributes:
        freezing: The engine, which all others ask for the phase.
        meter: Counts the cost.
        watch: Times the first steps, from which the prediction of the seconds is made.
        cache: Gives the network what its frozen stages gave before; None where that was not asked for.
    """

    freezing: Freezing
    meter: Meter
    watch: Stopwatch
    cache: PrefixCache | None

    @classmethod
    def of(cls, prepared: Prepared) -> Self:
        """Return those of a prepared run."""
        freezing = Freezing(prepared.network, prepared.plan, given=prepared.module.unmoving)
        meter, watch = Meter(freezing), Stopwatch(freezing)
        cache = PrefixCache(prepared.cuts, freezing, meter, watch) if prepared.cuts else None
        return cls(freezing=freezing, meter=meter, watch=watch, cache=cache)

    @property
    def callbacks(self) -> list[Callback]:
        """All of them, in the order of their hooks: what the cache computes is no part of the step that is measured."""
        return [self.freezing, *([self.cache] if self.cache else []), self.meter, self.watch]

    @property
    def reasons(self) -> dict[str, str]:
        """Why the frozen stages of a phase run in every epoch, by its span."""
        return self.cache.reasons if self.cache else {}

    def metrics(self, forecast: Forecast) -> dict[str, float]:
        """Return what the record says of a run's cost: as measured, as predicted, and what was given by the cache."""
        pace = self.watch.pace()
        if pace and self.cache:
            pace = replace(pace, computing=self.cache.computing)
        foreseen = forecast.at(pace, resident=self.watch.resident, on_gpu=self.watch.on_gpu)
        given = self.cache.metrics() if self.cache else {}
        return self.meter.metrics() | foreseen.metrics() | self.freezing.metrics() | given
