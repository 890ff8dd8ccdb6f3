"""The emulated `sim-keyed`; see `connectors.sim.server`."""

from connectors.contract import CreateTier
from connectors.sim.server import SimServer


class SimKeyed(SimServer):
    """The server of this tier."""

    tier = CreateTier.KEYED


EMULATOR = SimKeyed
