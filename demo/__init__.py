"""The demo: all of Keywheel on this machine, without a key or a network; `python -m demo`."""
