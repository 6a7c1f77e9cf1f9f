"""Run a benchmark by its name: `python -m benchmarks NAME [OPTION …]`.

Without a name, list the benchmarks. `python -m benchmarks all` runs those that need no data, each in a process of its
own, so that no benchmark measures the caches, threads or memory of another. Run benchmarks on an idle machine.
"""

import ast
import runpy
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
WITHOUT_DATA = (["speed.extraction", "--compile"], ["speed.scaling"], ["speed.forests"], ["serving.throughput"])


def benchmarks() -> dict[str, str]:
    """First line of the docstring of every module that runs as a program, by its name."""
    found = {}
    for path in sorted(FOLDER.glob("*/*.py")):
        source = path.read_text(encoding="utf-8")
        if "\nif __name__ ==" in source:
            docstring = ast.get_docstring(ast.parse(source)) or ""
            found[f"{path.parent.name}.{path.stem}"] = docstring.partition("\n")[0]
    return found


def main() -> None:
    """Run the benchmark that the command line names."""
    names = benchmarks()
    match sys.argv[1:]:
        case []:
            print("\n".join(f"{name:<30}{description}" for name, description in names.items()))
        case ["all"]:
            for arguments in WITHOUT_DATA:
                print(f"benchmarks {' '.join(arguments)}", flush=True)
                subprocess.run([sys.executable, "-m", "benchmarks", *arguments], check=True)
        case [name, *options] if name in names:
            sys.argv = [f"{sys.argv[0]} {name}", *options]
            runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
        case [name, *_]:
            raise SystemExit(f"no benchmark has the name {name}; python -m benchmarks lists the names")


if __name__ == "__main__":
    main()
