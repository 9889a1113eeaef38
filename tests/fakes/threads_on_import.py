"""A module that starts a thread when it is imported: nothing may be forked after that."""

import threading
import time

from tests.fakes.environments import Introspective

threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()


class Threaded(Introspective):
    """Works, in a process that has imported this module by itself."""
