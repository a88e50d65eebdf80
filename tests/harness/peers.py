"""Programs of other projects that tests talk to. Those built from Go modules lie in the peers' folder (tests/peers/build.sh)."""

import os


def find(name):
    """The path of a peer, or None: PINTLE_<NAME>, else the peers' folder."""
    folder = os.environ.get("PINTLE_PEERS") or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "pintle-peers")
    for path in (os.environ.get("PINTLE_" + name.upper(), ""), os.path.join(folder, name)):
        if path and os.access(path, os.X_OK):
            return path
    return None
