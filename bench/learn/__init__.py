"""Does training teach a small model anything, on two CPU cores? Families of short programs, the runs, and the table."""
