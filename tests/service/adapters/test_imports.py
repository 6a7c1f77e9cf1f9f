"""Other libraries are imported by their own adapter or attack only."""

import subprocess
import sys

CODE = """
import sys, attacks, attacks.deepfool, attacks.autoattack, service.adapters.fitting, service.adapters.images
import service.inputs, service.cli.commands
attacks.build_attack("carlini_wagner")
print(sorted({"art", "autoattack", "openood", "pyautoattack", "pytorch_ood", "sklearn"} & sys.modules.keys()))
"""


def test_packages_import_none_of_them() -> None:
    command = [sys.executable, "-W", "error", "-c", CODE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.strip() == "[]"
