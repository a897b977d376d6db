from pathlib import Path

import pytest
from cartes import ligne, lire, page
from cartes.lecteur import rows

DONNÉES = Path(__file__).parent.parent / "données"


@pytest.mark.parametrize("saison", ["hiver"])
def test_plats(saison):
    assert all(plat["plat"] for plat in lire(DONNÉES / f"carte_{saison}.csv"))


def test_hiver():
    assert page(lire(DONNÉES / "carte_hiver.csv"), 30).splitlines() == [
        "Soupe à l'oignon* ..... 8,50 €",
        "Bœuf bourguignon* .... 19,00 €",
    ]


def test_sans_allergènes():
    assert ligne({"plat": "Thé", "allergènes": "", "prix": "3,5"}, 20) == "Thé ......... 3,50 €"


def test_colonnes():
    with pytest.raises(ValueError, match="line 3"):
        rows("plat;prix\nThé;3\nCafé\n")


def test_vide():
    assert rows("") == []
