"""Root's help for an unprivileged user: folders that lie below closed ones are made reachable.

Root drops to a user who may not enter `/root` or another user's folders, where the interpreter or the work
folder often lie. In a mount namespace of its own each closed folder is covered by an empty one that holds
the needed folders alone, so that permissions outside stay as they are and more is hidden than before.
"""

from __future__ import annotations

import os

from .linux import CLONE_NEWNS, MS_BIND, MS_NODEV, MS_NOSUID, MS_PRIVATE, MS_REC, mount, unshare


def uncover(closed: dict[str, list[str]]) -> None:
    """Cover each closed folder and bind the needed paths below it to where they were.

    Args:
        closed: a folder that the user may not enter -> the real paths below it that are needed.

    Raises:
        OSError: no right to mount here (a container without it, for instance).
    """
    unshare(CLONE_NEWNS)
    mount("none", "/", "none", MS_REC | MS_PRIVATE)
    for folder, paths in closed.items():
        held = [(path, os.open(path, os.O_PATH)) for path in sorted(paths, key=len)]
        mount("none", folder, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
        for path, source in held:
            if not os.path.lexists(path):
                if os.path.isdir(f"/proc/self/fd/{source}"):
                    os.makedirs(path)
                else:
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
                mount(f"/proc/self/fd/{source}", path, "none", MS_BIND | MS_REC)
            os.close(source)
