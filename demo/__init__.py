"""The whole thing on this machine, without a key or a network: `python -m demo`."""
