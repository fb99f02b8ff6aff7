"""Match prewrites with commits, and track what is pending or finished."""
