"""Reading the files of TiCDC's storage sink."""
