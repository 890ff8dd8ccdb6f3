"""Type `sim-nested`; see `connectors.sim`."""

from connectors.contract import CreateTier
from connectors.sim import Sim
from connectors.sim.fields import NESTED

ADAPTER = Sim(CreateTier.KEYED, NESTED, "sim-nested")
