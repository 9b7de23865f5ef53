"""What users would write or pick instead, each a program: `python NAME.py MANIFEST OUTPUT MODEL residual|colour`."""
