"""Type `sim-search`; see `connectors.sim`."""

from connectors.contract import CreateTier
from connectors.sim import Sim

ADAPTER = Sim(CreateTier.SEARCH)
