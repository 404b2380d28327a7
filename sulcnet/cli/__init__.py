"""One file per command: HELP, arguments, run. The only place for print and sys.argv."""
