"""Command line: ``python -m cantata demo``.

Options are checked before anything is imported that takes long.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class _Parser(argparse.ArgumentParser):
    """Parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")


def _number(smallest: int, largest: int) -> Callable[[str], int]:
    """Reader of integers within limits, with errors that argparse shows."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no integer") from error
        if not smallest <= value <= largest:
            raise argparse.ArgumentTypeError(f"{value} is not between {smallest} and {largest}")
        return value

    return read


def _file(text: str) -> Path:
    """Path of a file that can be one of data."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {path}")
    if path.suffix == ".h5ad":
        raise argparse.ArgumentTypeError(
            f"{path} holds an AnnData, one table. Put the modalities into a MuData, "
            "mudata.MuData({'rna': rna, 'adt': adt}), and write it as .h5mu"
        )
    return path


def _make_folder(path: Path) -> None:
    """Make a folder, and write into it as a trial."""
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m cantata", description="Integration of multimodal data.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    demo = commands.add_parser(
        "demo",
        help="integrate a mosaic from beginning to end",
        description="Integrate a mosaic from beginning to end: pairing report, preprocessing, "
        "training, embedding, scores beside simple methods and chance. Writes demo.h5mu and "
        "demo.png. Without --data a mosaic is simulated. With --model apollo --images: images of "
        "two stains are simulated, and APOLLO tells what they share and predicts one from the "
        "other.",
    )
    demo.add_argument(
        "--data",
        type=_file,
        metavar="FILE.h5mu",
        help="your own data, counts in .X or 'counts'; or a file of Cell Ranger, .h5",
    )
    demo.add_argument(
        "--model", choices=["clue", "apollo"], default="clue", help="model (default: clue)"
    )
    demo.add_argument(
        "--images", action="store_true", help="simulated images, which --model apollo runs on"
    )
    demo.add_argument(
        "--label-key", metavar="COL", help="column with cell types (default: common names)"
    )
    demo.add_argument(
        "--batch-key", metavar="COL", help="column with batches (default: common names)"
    )
    demo.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)"
    )
    demo.add_argument(
        "--seed", type=_number(0, 2**32 - 1), default=0, metavar="N", help="(default: 0)"
    )
    demo.add_argument(
        "--epochs",
        type=_number(1, 100_000),
        metavar="N",
        help="planned epochs (default: by data size)",
    )
    demo.add_argument(
        "--accelerator",
        choices=["auto", "cpu", "gpu", "mps"],
        default="auto",
        help="(default: auto)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Parameters
    ----------
    argv
        Arguments; those of the command line by default.

    Returns
    -------
    0, or 2 where the data or an option cannot be used.

    Raises
    ------
    SystemExit
        By the parser: status 2 for wrong arguments, 0 after ``--help``.

    Examples
    --------
    >>> main(["demo", "--epochs", "0"])
    Traceback (most recent call last):
    SystemExit: 2
    """
    arguments = vars(_parser().parse_args(argv))
    del arguments["command"]
    if arguments["images"] != (arguments["model"] == "apollo"):
        return _refuse("--model apollo and --images go together: the demo of APOLLO is on images.")
    own = [name for name in ("data", "label_key", "batch_key") if arguments[name] is not None]
    if arguments["images"] and own:
        return _refuse(f"--{own[0].replace('_', '-')}: the demo on images simulates them.")
    try:
        _make_folder(arguments["out"])
    except OSError as error:
        return _refuse(f"--out: cannot write to {arguments['out']}: {error.strerror or error}.")
    from cantata._demo import DemoError, run  # takes ten seconds

    try:
        run(**arguments)
    except DemoError as error:
        return _refuse(str(error))
    return 0


def _refuse(reason: str) -> int:
    sys.stderr.write(f"python -m cantata demo: error: {reason}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
