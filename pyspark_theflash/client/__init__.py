"""An import path that users have; the code is in `service.client`."""
