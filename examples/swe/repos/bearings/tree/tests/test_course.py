import unittest

from bearings.course import compass, course


class Courses(unittest.TestCase):
    def test_due_east(self):
        self.assertAlmostEqual(course((0, 0), (0, 10)), 90)

    def test_round_the_pole(self):
        self.assertEqual(compass(course((60, 10), (60, -170))), "N")

    def test_compass(self):
        self.assertEqual([compass(angle) for angle in (0, 44, 225, 350, -90)], ["N", "NE", "SW", "N", "W"])
