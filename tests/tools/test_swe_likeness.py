"""Patches that make the same change count as one."""

from __future__ import annotations

import pytest

from sparring.tools.swe.likeness import normal

PATCH = """diff --git a/calc.py b/calc.py
index 1111111..2222222 100644
--- a/calc.py
+++ b/calc.py
@@ -1,3 +1,3 @@
 def double(x):
-    return x + x + 1
+    return x + x
 # end
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2222222", "3333333"),
        ("+    return x + x\n", "+    return x + x  \n"),
        ("@@ -1,3 +1,3 @@", "@@ -1,3 +1,4 @@ class A:"),
        (" # end\n", " # end\n\\ No newline at end of file\n"),
    ],
)
def test_the_same_change(old: str, new: str) -> None:
    other = PATCH.replace(old, new)
    if "+1,4" in new:
        other = other.replace("+    return x + x\n", "+\n+    return x + x\n")
    assert other != PATCH and normal(other) == normal(PATCH)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("+    return x + x", "+    return 2 * x"),
        ("+    return", "+        return"),
        ("calc.py", "other.py"),
        ("@@ -1,3", "@@ -7,3"),
        ("-    return x + x + 1\n+    return x + x\n", "+    return x + x\n-    return x + x + 1\n"),
    ],
)
def test_another_change(old: str, new: str) -> None:
    assert normal(PATCH.replace(old, new)) != normal(PATCH)


def test_nothing_is_read_as_a_header_inside_of_a_hunk() -> None:
    lines = "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n--- index 1\n+++ index 2\n"
    assert normal(lines).splitlines() == ["diff --git a/a b/a", "1--- index 1", "2+++ index 2"]


def test_binary_hunks_and_modes_count_as_they_are() -> None:
    binary = "diff --git a/b b/b\nold mode 100644\nnew mode 100755\nGIT binary patch\nliteral 3\nKcmV\n\n"
    assert normal(binary) == normal(binary + "\n") != normal(binary.replace("KcmV", "KcmW"))
    assert normal("") == ""
