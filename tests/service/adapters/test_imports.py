"""Other libraries are imported by their own adapter only."""

import subprocess
import sys

CODE = """
import sys, service.adapters.fitting, service.adapters.images, service.inputs, service.cli.commands
print(sorted({"art", "pytorch_ood", "openood", "sklearn"} & sys.modules.keys()))
"""


def test_packages_import_none_of_them() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.strip() == "[]"
