"""Passes over hosts that have failed, for a time that does not depend on the system's clock."""

import time

from elastic_transport import BaseNode, NodePool


class HostPool(NodePool):
    """The client's own pool, but by the monotonic clock. By the system's, a host that failed just before the clock was set
    back a day would be passed over for a day."""

    def mark_dead(self, node: BaseNode, _now: float | None = None) -> None:
        super().mark_dead(node, time.monotonic() if _now is None else _now)

    def resurrect(self, force: bool = False) -> BaseNode | None:  # type: ignore[override]  # its overloads mean the same
        dead = self._dead_nodes.queue  # sorted by when their time is over
        if not force and not (dead and dead[0][0] <= time.monotonic()):
            return None
        return super().resurrect(force=True)
