"""Where rows are placed."""
