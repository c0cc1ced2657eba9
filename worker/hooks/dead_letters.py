"""Has the recorder that all hooks share; it writes to the dead letters of the running loop."""

from typing import Final

from worker.deadletters.recorder import Recorder
from worker.runtime import Runtime

recorder: Final = Recorder(lambda: Runtime.current().dead_letters)
