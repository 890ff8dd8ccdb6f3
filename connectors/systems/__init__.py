"""One folder per kind of external system; `connectors.registry` finds them by name."""
