"""An MCP server with one tool: `python examples/tools/server.py` speaks over standard input and output."""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer

server = MCPServer("units", log_level="ERROR")
METRES = {"m": 1.0, "km": 1000.0, "mile": 1609.344, "foot": 0.3048}


@server.tool()
def convert(value: float, unit: str, to: str) -> str:
    """Convert a length between m, km, mile and foot."""
    for name in (unit, to):
        if name not in METRES:
            return f"unknown unit {name}; known: {', '.join(METRES)}"
    return f"{value * METRES[unit] / METRES[to]:.6g}"


if __name__ == "__main__":
    server.run()
