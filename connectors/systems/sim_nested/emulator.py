"""The emulated `sim-nested`; see `connectors.sim.server`."""

from connectors.contract import CreateTier
from connectors.sim.server import SimServer
from schemas.fields import Json


class SimNested(SimServer):
    """The server of this kind."""

    tier = CreateTier.KEYED
    nested = True

    def connection(self, url: str) -> dict[str, Json]:
        """The `externalSync` document of a connection to this server."""
        return {"type": "sim-nested", "url": url, "extraFields": []}


EMULATOR = SimNested
