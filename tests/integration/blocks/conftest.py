"""Worker processes import the functions of blocks by name, so these lie in a module on the search path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
