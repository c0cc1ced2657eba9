"""Names the headers that the transport adds to redelivered messages."""

from typing import Final

DEATHS: Final = "deaths"
"""The number of workers that died while they held the message."""
DIED_S: Final = "died_s"
"""When the first of these workers was last alive, in seconds since 1970 by the server's clock."""
