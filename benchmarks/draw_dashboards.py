"""Draw the dashboards as SVG, of what a Prometheus has: ``python -m benchmarks.draw_dashboards http://HOST:9090 DIR``.

For pictures where no Grafana is: panels, queries and places are the JSON's, the drawing is this file's, plainer than
Grafana's own. Asks for the last ``MINUTES`` (third argument, 5).
"""

from __future__ import annotations

import json
import math
import sys
import time
import urllib.parse
import urllib.request
from html import escape
from pathlib import Path
from typing import Any

WIDTH, ROW, GAP = 1200, 26, 6
POINTS = 150
COLORS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#e0453f", "#b877d9", "#37872d", "#8ab8ff", "#fade2a", "#c0d8ff")
INK, DIM, PAPER, PANEL, LINE = "#d8d9da", "#8e9099", "#111217", "#181b1f", "#2c3235"
VARIABLES = {"$__rate_interval": "30s", "$provider": ".*"}

Series = tuple[str, list[tuple[float, float]]]


def ask(prometheus: str, expression: str, legend: str, minutes: float) -> list[Series]:
    """Return the series of a query, each with its legend and its points (Unix time, value)."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    end = time.time()
    step = max(1.0, minutes * 60 / POINTS)
    query = {"query": expression, "start": end - minutes * 60, "end": end, "step": step}
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(query)}", timeout=20) as got:
        result = json.load(got)["data"]["result"]
    return [(legend_of(legend, each["metric"]), points_of(each["values"])) for each in result]


def points_of(values: list[tuple[float, str]]) -> list[tuple[float, float]]:
    """Return the points that are numbers."""
    return [(at, float(value)) for at, value in values if math.isfinite(float(value))]


def legend_of(template: str, labels: dict[str, str]) -> str:
    """Fill labels into a legend."""
    for name in ("__name__", *labels):
        template = template.replace(f"{{{{{name}}}}}", labels.get(name, ""))
    while "{{" in template:
        before, _, rest = template.partition("{{")
        template = before + rest.partition("}}")[2]
    return template.strip() or "none"


def shown(value: float, unit: str) -> str:
    """Write a value in its unit."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s" and value:
        for size, word in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= size:
                return f"{value / size:.3g} {word}"
    if unit == "bytes":
        return f"{value / 2**20:.4g} MiB"
    suffix = {"reqps": " req/s", "ops": " /s", "d": " d"}.get(unit, "")
    return (f"{value:.0f}" if value >= 1000 else f"{value:.3g}") + suffix


def text(x: float, y: float, words: str, *, size: int = 11, color: str = INK, anchor: str = "start") -> str:
    """One line of text."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" text-anchor="{anchor}">{escape(words)}</text>'
    )


def draw_stat(series: list[Series], unit: str, box: tuple[float, float, float, float]) -> list[str]:
    """The newest value of each series."""
    x, y, w, h = box
    if not series:
        return [text(x + w / 2, y + h / 2 + 10, "no data", color=DIM, anchor="middle")]
    out = []
    for number, (legend, points) in enumerate(series[:4]):
        at = y + h / 2 + 14 + (number - (min(len(series), 4) - 1) / 2) * 24
        words = shown(points[-1][1], unit) if points else "–"
        if len(series) > 1 or legend != "none":
            words += f"  {legend}"
        out.append(text(x + w / 2, at, words, size=22 if len(series) == 1 else 14, color=COLORS[0], anchor="middle"))
    return out


def draw_lines(series: list[Series], unit: str, box: tuple[float, float, float, float], *, stack: bool) -> list[str]:
    """Lines over time, with a scale, and what each is."""
    x, y, w, h = box
    series = [each for each in series if each[1]]
    if not series:
        return [text(x + w / 2, y + h / 2, "no data", color=DIM, anchor="middle")]
    if stack:
        series = stacked(series)
    left, right, top, bottom = x + 62, x + w - 10, y + 30, y + h - 34
    first = min(points[0][0] for _, points in series)
    last = max(points[-1][0] for _, points in series)
    most = max(value for _, points in series for _, value in points) * 1.08 or 1.0
    out = []
    for part in range(5):
        level = bottom - (bottom - top) * part / 4
        out.append(f'<line x1="{left}" x2="{right}" y1="{level:.1f}" y2="{level:.1f}" stroke="{LINE}"/>')
        out.append(text(left - 6, level + 4, shown(most * part / 4, unit), size=10, color=DIM, anchor="end"))
    for number, (_, points) in reversed(list(enumerate(series))):
        color = COLORS[number % len(COLORS)]
        across, up = (right - left) / max(last - first, 1), (bottom - top) / most
        path = " ".join(f"{left + across * (at - first):.1f},{bottom - up * value:.1f}" for at, value in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.4"/>')
    where = left
    for number, (legend, _) in enumerate(series):
        if where + 9 + len(legend) * 5.8 > right:
            out.append(text(where, y + h - 12, f"and {len(series) - number} more", size=10, color=DIM))
            break
        out.append(
            f'<rect x="{where:.1f}" y="{y + h - 18}" width="8" height="3" fill="{COLORS[number % len(COLORS)]}"/>'
        )
        out.append(text(where + 12, y + h - 12, legend, size=10, color=DIM))
        where += 24 + len(legend) * 5.8
    return out


def stacked(series: list[Series]) -> list[Series]:
    """Put each series on top of those before it."""
    reached: dict[float, float] = {}
    out = []
    for legend, points in series:
        for at, value in points:
            reached[at] = reached.get(at, 0.0) + value
        out.append((legend, [(at, reached[at]) for at, _ in points]))
    return out


def draw(board: dict[str, Any], prometheus: str, minutes: float) -> str:
    """Return a dashboard as SVG."""
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) * ROW + 50
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="Helvetica, sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>',
        text(12, 30, board["title"], size=18),
        text(WIDTH - 12, 30, f"the last {minutes:g} minutes", color=DIM, anchor="end"),
    ]
    for panel in board["panels"]:
        at = panel["gridPos"]
        x, y = at["x"] * WIDTH / 24 + GAP / 2, at["y"] * ROW + 44
        w, h = at["w"] * WIDTH / 24 - GAP, at["h"] * ROW - GAP
        defaults = panel["fieldConfig"]["defaults"]
        series = [
            each
            for target in panel["targets"]
            for each in ask(prometheus, target["expr"], target["legendFormat"], minutes)
        ]
        out.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="2" fill="{PANEL}" stroke="{LINE}"/>'
        )
        out.append(text(x + 10, y + 19, panel["title"], size=12))
        if panel["type"] == "stat":
            out += draw_stat(series, defaults["unit"], (x, y, w, h))
        else:
            stack = defaults["custom"]["stacking"]["mode"] == "normal"
            out += draw_lines(series, defaults["unit"], (x, y, w, h), stack=stack)
    return "\n".join([*out, "</svg>\n"])


def main() -> None:
    """Draw every dashboard of this folder."""
    prometheus, folder = sys.argv[1].rstrip("/"), Path(sys.argv[2])
    minutes = float(sys.argv[3]) if len(sys.argv) > 3 else 5.0
    for path in sorted((Path(__file__).parents[1] / "deploy" / "grafana" / "dashboards").glob("*.json")):
        target = folder / f"dashboard-{path.stem}.svg"
        target.write_text(draw(json.loads(path.read_text()), prometheus, minutes))
        sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main()
