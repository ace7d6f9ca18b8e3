"""What the paper reports, how it is settled here, and which measurements are recorded on a GPU."""

CLAIMS = ()
RECORDINGS = ()
