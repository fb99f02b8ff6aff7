"""Storage engines for row versions, and the interface they implement."""
