import unittest
from fractions import Fraction

from pantry.quantity import read_amount, show_amount


class Amounts(unittest.TestCase):
    def test_read(self):
        half = Fraction(1, 2)
        for text, value in [("2", 2), ("1/2", half), ("1 1/2", 1 + half), ("0.25", half / 2)]:
            with self.subTest(text=text):
                self.assertEqual(read_amount(text), value)

    def test_no_amount(self):
        for text in ["", "some", "1/0", "1 2", "1 1/2 3"]:
            with self.subTest(text=text), self.assertRaises(ValueError):
                read_amount(text)

    def test_show(self):
        self.assertEqual(show_amount(Fraction(3, 2)), "1 1/2")
        self.assertEqual(show_amount(Fraction(1, 3)), "1/3")
        self.assertEqual(show_amount(Fraction(1, 30)), "0.03")

    @unittest.expectedFailure
    def test_unicode_fractions(self):
        self.assertEqual(read_amount("\u00bd"), Fraction(1, 2))
