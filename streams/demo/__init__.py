"""`syncline demo`: the whole road once, both ways, on the real stack, with an emulated external system at its end.

`world` starts everything and holds the handles, `scenes` are what happens, `audit` counts what was lost, doubled or
echoed. The people are the Febrl 1 data set (synthetic, published with the Febrl record-linkage project, BSD-3-Clause).
"""

from streams.demo.run import run

__all__ = ["run"]
