"""Tools that agents call: what one is, and the box of them; functions, the interpreter, MCP servers."""
