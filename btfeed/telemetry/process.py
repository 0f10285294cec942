"""Metrics of the process, as every exporter names them: CPU time, memory, open files, and when it started."""

import time

from prometheus_client import ProcessCollector


class Process(ProcessCollector):
    """Needs no more of /proc than what is about the process itself: a sandbox may hide the rest (systemd's ProcSubset=pid),
    and the base class, which reads the time of the boot there, has no metrics then."""

    def _boot_time(self) -> float:
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
