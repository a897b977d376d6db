"""Amounts, splits, invoices."""
