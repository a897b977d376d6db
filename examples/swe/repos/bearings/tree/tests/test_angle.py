import unittest

from bearings.angle import degrees, dms


class Angles(unittest.TestCase):
    def test_write(self):
        self.assertEqual(dms(12.5), "12°30'00\"")
        self.assertEqual(dms(-0.25), "-0°15'00\"")
        self.assertEqual(dms(1 / 3600, places=2), "0°00'01.00\"")

    def test_read(self):
        self.assertEqual(degrees("-0°15'00\""), -0.25)
        self.assertEqual(degrees("12°"), 12)

    def test_no_angle(self):
        for text in ("", "12", "12°60'", "12°59'60\""):
            with self.subTest(text=text), self.assertRaises(ValueError):
                degrees(text)
