"""Writing files: whole or not at all, and for those eyes only that the user lets see them."""

import stat
import subprocess
import sys
from pathlib import Path


def test_a_file_has_the_permissions_that_the_user_s_mask_leaves(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; os.umask(0o077); "
        "from genpipe.files import write_json; write_json(Path(sys.argv[1]), {})"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "private.json"], check=True)
    assert stat.S_IMODE((tmp_path / "private.json").stat().st_mode) == 0o600
