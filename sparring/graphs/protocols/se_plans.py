"""The plans of SE-Agent's pilots, in our own words; the paper (2508.02085) names the kinds alone."""

from __future__ import annotations

PLANS = {
    "greedy": (
        "Take the shortest way: find the place that the issue points to, make the change that seems "
        "most likely to resolve it, see whether it does, and hand it in. Explore only as far as the "
        "next command needs it."
    ),
    "tests_first": (
        "Begin with a script that shows the problem, kept outside of the repository's own tests, with "
        "every case that the issue speaks of and those that must stay as they are. Only then change the "
        "code, until all of it holds. Remove the script before you hand the work in."
    ),
    "careful_reader": (
        "Read before you write: follow the code from where the issue meets it to its callers and "
        "helpers, and keep to the conventions of the files around it, names, types, imports and style, "
        "as a strict linter and reviewer would demand. Then change it, and check that every touched "
        "file still compiles and imports."
    ),
    "defensive": (
        "Ask what else can go wrong in the same way: empty and odd input, limits, None, repeated calls, "
        "other callers. Resolve the issue so that these cases hold too, and break nothing that others "
        "rely on."
    ),
    "minimal": (
        "Find the cause, not only the symptom, and change as few lines as resolve it. Add nothing that "
        "the issue does not ask for; look at the difference at the end, and take back what is not "
        "needed."
    ),
}
"""Name -> what the engineer is told."""
