"""The emulated `sim-client-id`; see `connectors.sim.server`."""

from connectors.contract import CreateTier
from connectors.sim.server import SimServer


class SimClientId(SimServer):
    """The server of this tier."""

    tier = CreateTier.CLIENT_ID


EMULATOR = SimClientId
