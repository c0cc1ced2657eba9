"""The demo: all of Keywheel on this machine, without keys or network; `python -m demo`."""
