"""What runs between Sparring and the sandboxed command: started as `python -I -S`, so nothing of Sparring,
nothing of the environment and no installed package is imported here; the standard library only.

`supervisor` is the process that Sparring starts. It forks the command's first process, which makes the
chosen folders reachable (`mounts`), then shuts itself in (`confine`, with `landlock` and `seccomp`).

Each start costs what is imported: `typing`, `collections.abc` and `signal` (for its enums) take longer than
all of this code, so they are seen by type checkers alone.
"""
