"""The messages of TiKV, and PD's about regions, as bytes, from and into values."""
