"""`python -m oarlock.cli`: the same as the `oarlock` command, wherever that is not on the path."""

from oarlock.cli import main

main()
