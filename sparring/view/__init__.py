"""A local web page over a journal: runs, transcripts, tournaments, evolutions, lineage. It only reads."""
