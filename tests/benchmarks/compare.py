"""Compares channel layers in one run: the same work for each, repetitions interleaved.

    python tests/benchmarks/compare.py [--quick] [--json [FILE]] [--peers a,b] [--workloads a,b]
                                       [--markdown FILE] [--plots DIRECTORY] [--durable]

Needs `pip install -e '.[bench]'`, and a Redis server on the path for the Redis layers. Run it on an
otherwise idle Linux machine. A layer that cannot do a workload is reported as such.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

# At the end: where the built wheel is installed, that is what is measured.
sys.path.append(str(Path(__file__).parents[2]))

from tests.benchmarks import contenders, nursery, plots, report, run
from tests.benchmarks.goals import judge
from tests.benchmarks.scale import FULL, QUICK, TINY, Scale
from tests.benchmarks.servers import Servers
from tests.benchmarks.workload import Point, Workload
from tests.benchmarks.workloads.catalogue import chosen

#: What `--json` without a file writes to, as `-` does.
_STDOUT = Path("-")


def main() -> None:
    """Measure, and print the tables."""
    if sys.argv[1:2] == [nursery.OPTION]:
        nursery.serve(int(sys.argv[2]))
        return
    options = arguments()
    scale = TINY if options.tiny else QUICK if options.quick else FULL
    try:
        workloads = chosen(options.workloads)
    except ValueError as error:
        sys.exit(str(error))
    # Forked from before there is anything to inherit.
    with nursery.Nursery() as children:
        redis = any(name in contenders.ON_REDIS for name in options.peers)
        with Servers(durable=options.durable, redis=redis) as servers:
            rows = run.measure(
                [name for name in contenders.NAMES if name in options.peers],
                workloads,
                points_wanted(options.workloads, scale),
                scale,
                servers,
                children,
                Progress(),
            )
            versions, settings = report.versions(servers.versions()), servers.changed()
    verdicts = judge(rows)
    command = shlex.join(["python", "tests/benchmarks/compare.py", *sys.argv[1:]])
    found = report.report(
        rows,
        verdicts,
        versions=versions,
        scale=scale.name,
        settings=settings,
        command=command,
    )
    text = report.markdown(found, verdicts)
    figures = json.dumps(found, indent=1) + "\n"
    if options.json == _STDOUT:
        sys.stdout.write(figures)
        print(text, file=sys.stderr)
    else:
        if options.json:
            options.json.write_text(figures, encoding="utf-8")
        print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    if options.plots:
        plots.draw(rows, options.plots)
    ours = [row for row in rows if row["layer"] == contenders.OURS]
    sys.exit(any(row["median"] is None for row in ours))


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions of less work")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        nargs="?",
        const=_STDOUT,
        help="write the figures there; without FILE they go to standard output, the tables to"
        " standard error",
    )
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables there")
    parser.add_argument("--plots", metavar="DIRECTORY", type=Path, help="draw plots there")
    parser.add_argument(
        "--peers",
        metavar="A,B",
        type=_peers,
        default=contenders.NAMES,
        help=f"layers to compare ours with, of {', '.join(contenders.NAMES[1:])}",
    )
    parser.add_argument(
        "--workloads", metavar="A,B", type=lambda text: text.split(","), help="default: all"
    )
    parser.add_argument(
        "--durable", action="store_true", help="let PostgreSQL wait for the disk (fsync)"
    )
    return parser.parse_args()


def points_wanted(ids: list[str] | None, scale: Scale) -> run.PointsOf:
    """Return what says which points of a workload are measured."""

    def points(workload: type[Workload]) -> list[Point]:
        return [
            point
            for point in workload.points
            if scale.growth or not point.extra or set(point.ids) & set(ids or ())
        ]

    return points


class Progress:
    """Says on standard error what is being done."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def __call__(self, text: str) -> None:
        """Replace what was said before, on a terminal; else say only what is new."""
        line = f"{time.monotonic() - self._begun:5.0f} s  {text}"
        if sys.stderr.isatty():
            print(f"\r{line:<79}", end="", file=sys.stderr, flush=True)
        elif text.endswith("preparing"):
            print(line, file=sys.stderr, flush=True)


def _peers(text: str) -> tuple[str, ...]:
    names = [name for name in text.split(",") if name]
    if unknown := set(names) - set(contenders.NAMES):
        raise argparse.ArgumentTypeError(
            f"no layer {', '.join(sorted(unknown))}; there are {', '.join(contenders.NAMES[1:])}"
        )
    return (contenders.OURS, *names)


if __name__ == "__main__":
    main()
