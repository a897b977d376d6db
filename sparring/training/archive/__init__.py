"""An archive of software agents: words and settings that evolve by what their own logs show (DGM's form)."""
