"""How they talk: one LangGraph state machine per protocol; aggregation; play; reports."""
