"""A simulated Wolkvox reports API, good enough to develop against; see `server.Simulator`.

world    what conversations exist            report   what a window shows
faults   what can go wrong                   wire     how an answer travels
server   the API itself                      stats    what was asked
"""

from sandbox.wolkvox.server import DEFAULT_TOKEN, Simulator
from sandbox.wolkvox.world import Gap, World

__all__ = ["DEFAULT_TOKEN", "Gap", "Simulator", "World"]
