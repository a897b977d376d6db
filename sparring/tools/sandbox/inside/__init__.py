"""What runs between Sparring and the sandboxed command: started as `python -I -S`, so nothing of Sparring,
nothing of the environment and no installed package is imported here; the standard library only.

Sparring starts `zygote`, once. For each command it forks a `supervisor`, which forks the command's first
process. That one goes into bubblewrap's `namespaces`, if it is to, and shuts itself in (`confine`, with
`mounts`, `landlock` and `seccomp`). `tree` ends all that is left.

What is imported here makes the zygote larger, and each fork slower: `typing`, `collections.abc` and `signal`
(for its enums) are seen by type checkers alone.
"""
