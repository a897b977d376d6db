import unittest

from roster.shifts import DAYS, hours, overworked, read_roster, read_shift, short_rests


class Reading(unittest.TestCase):
    def test_day_shift(self):
        self.assertEqual(read_shift("Ines Tue 06:00-14:30").hours, 8.5)

    def test_no_shift(self):
        for line in ["", "Ines Tue", "Ines Xxx 06:00-14:00"]:
            with self.subTest(line=line), self.assertRaises(ValueError):
                read_shift(line)


class Week(unittest.TestCase):
    def test_hours_add_up(self):
        roster = read_roster("Ines Mon 06:00-14:00\nJon Mon 14:00-22:00\nInes Tue 06:00-12:00\n")
        self.assertEqual(hours(roster), {"Ines": 14, "Jon": 8})

    def test_overworked(self):
        roster = read_roster("\n".join(f"Jon {day} 08:00-17:00" for day in DAYS[:5]))
        self.assertEqual(overworked(roster), ["Jon"])

    def test_short_rest(self):
        roster = read_roster("Jon Mon 14:00-22:00\nJon Tue 06:00-14:00\nInes Tue 14:00-22:00")
        self.assertEqual([(one.day, other.day) for one, other in short_rests(roster)], [(0, 1)])

    @unittest.skip("needs the calendar of next year")
    def test_holidays(self):
        raise NotImplementedError
