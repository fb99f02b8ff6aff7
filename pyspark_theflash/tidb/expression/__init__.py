"""Evaluation of TiDB's SQL expressions over Arrow columns."""
