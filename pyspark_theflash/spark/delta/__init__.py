"""The engine *delta*: versions in Delta tables, written and read by Spark's executors."""
