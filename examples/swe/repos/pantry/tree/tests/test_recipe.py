import unittest

from pantry.recipe import Recipe


class Scaling(unittest.TestCase):
    def setUp(self):
        self.pancakes = Recipe("Pancakes", 2)
        self.pancakes.add("200; g; flour")
        self.pancakes.add("1 1/2; ; eggs")
        self.pancakes.add("1; pinch of; salt", fixed=True)

    def test_shopping(self):
        self.assertEqual(self.pancakes.shopping(4), ["3 eggs", "400 g flour", "1 pinch of salt"])

    def test_one_guest_at_least(self):
        with self.assertRaises(ValueError):
            self.pancakes.scaled(0)

    def test_serves(self):
        self.assertEqual(self.pancakes.scaled(6).serves, 6)
