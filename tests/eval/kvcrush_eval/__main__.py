import sys

from kvcrush_eval.cli import main

sys.exit(main())
