"""Headers that the transport writes into messages that come again."""

from typing import Final

DEATHS: Final = "deaths"
"""The number of workers that died while they held the message."""
DIED_S: Final = "died_s"
"""When the first of them was last alive, in seconds since 1970 by the server's clock."""
