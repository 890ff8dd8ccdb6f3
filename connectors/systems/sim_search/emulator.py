"""The emulated `sim-search`; see `connectors.sim.server`."""

from connectors.contract import CreateTier
from connectors.sim.server import SimServer


class SimSearch(SimServer):
    """The server of this tier."""

    tier = CreateTier.SEARCH


EMULATOR = SimSearch
