"""Messages of TiKV's and PD's gRPC services."""
