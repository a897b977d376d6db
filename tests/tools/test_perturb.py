"""Perturbations keep the response, add nothing to it but form, and are what they are called."""

from __future__ import annotations

import pytest

from sparring.tools.perturb import FEWEST, LONGER, PROBES, TONES, crowd, perturbed

WORSE, BETTER = "Paris, or so.", "The capital is Paris."


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(("worse", "better"), [(WORSE, BETTER), (BETTER * 9, WORSE), ("x", "y" * 3500)])
def test_the_response_itself_stays_as_it_is(probe: str, worse: str, better: str) -> None:
    shown, other = perturbed(probe, worse, better)
    assert worse in shown and better in other and (shown, other) == perturbed(probe, worse, better)
    assert (shown == worse) == (probe == "bandwagon") and (other == better) == (probe not in TONES)


@pytest.mark.parametrize(("worse", "better"), [(WORSE, BETTER), (BETTER * 9, WORSE), ("x", "y" * 3500)])
def test_a_padded_response_is_much_the_longer_one_and_does_not_repeat_itself(worse: str, better: str) -> None:
    shown, _ = perturbed("verbosity", worse, better)
    assert len(shown) >= LONGER * max(len(worse), len(better))
    sentences = shown.removeprefix(worse).strip().split(". ")
    assert len(sentences) >= FEWEST and len(set(sentences)) == len(sentences)


@pytest.mark.parametrize("probe", TONES)
def test_tones_leave_the_difference_in_length(probe: str) -> None:
    shown, other = perturbed(probe, WORSE, BETTER)
    assert len(shown) - len(other) == len(WORSE) - len(BETTER)


def test_the_crowd_names_both() -> None:
    assert crowd("response B", "response A").endswith("that response B is better than response A.")
