"""What happened: the SQL journal, its migrations, store and queries; task sets."""
