"""The league: tournaments between versions and engines, their schedules, matches, ratings and standings."""
