"""Refuse to import a source tree that was not compiled, and say how to compile it."""

from importlib.machinery import PathFinder
from pathlib import Path

_FOLDER = Path(__file__).parent / "cpu"

# A processor without AVX2 does without the modules for it. The last one is Cython's own (setup.py).
_missing = [
    name
    for name in [*sorted(source.stem for source in _FOLDER.glob("*.pyx")), "_cyutility"]
    if not name.endswith("_avx2") and PathFinder.find_spec(name, [str(_FOLDER)]) is None
]
if _missing:
    # The name makes `python -m aproarray` print this sentence alone.
    raise ImportError(
        f"aproarray in {_FOLDER.parent} is not compiled for this Python ({', '.join(_missing)} missing): "
        "run `pip install .` or `python setup.py build_ext --inplace` in its folder",
        name="aproarray",
    )
