"""The emulated `sim-none`; see `connectors.sim.server`."""

from connectors.contract import CreateTier
from connectors.sim.server import SimServer


class SimNone(SimServer):
    """The server of this tier."""

    tier = CreateTier.NONE


EMULATOR = SimNone
