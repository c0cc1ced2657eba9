"""Ends the start if Python cannot write to the file that `SSLKEYLOGFILE` names.

Python can make no TLS context then. aiohttp makes one when it is imported, which would end the
start with a traceback, so this module is imported before aiohttp.
"""

import os

from worker.startup.certificates import key_log_problem
from worker.startup.no_start import no_start

if (_sentence := key_log_problem(os.environ)) is not None:
    raise no_start(_sentence)
