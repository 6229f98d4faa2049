"""`report.html`: a comparison as one page that needs nothing but itself."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from clrl.eval import plots
from clrl.eval.comparison import COLUMNS, Comparison, Rows
from clrl.eval.report import BASIS, COST, KEPT, defined, shown

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid #ccc;
  padding-top: 1rem; } h3 { font-size: 1rem; margin: 1.8rem 0 .4rem; }
table { border-collapse: collapse; font-size: 13px; } .wide { overflow-x: auto; }
.methods th, .methods td { padding: .3rem .5rem; border-bottom: 1px solid #e4e4e4;
  text-align: right; white-space: nowrap; vertical-align: top; }
.methods thead th { border-bottom: 2px solid #888; }
.methods th:nth-child(2), .methods td:nth-child(2) { text-align: left; }
td small { display: block; color: #777; font-size: 11px; }
p.note, dl { color: #555; font-size: 13px; } dd { margin: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
img.plot { max-width: 100%; height: auto; }
.film th { text-align: left; padding-right: 1rem; } .film td { padding-right: .8rem; }
.film img { width: 104px; border-radius: 3px; margin-right: 2px; }
"""


@dataclass(frozen=True)
class Film:
    """Pictures of what the agent of one run does.

    Attributes:
        title: Which run it is.
        pictures: For each skill, for each moment such as "before training", JPEG files in the order
            of the episode.
        note: Why there are none, if so.
    """

    title: str
    pictures: Mapping[str, Mapping[str, Sequence[bytes]]] = field(default_factory=dict)
    note: str = ""


def page(comparison: Comparison, films: Mapping[str, Sequence[Film]] | None = None) -> str:
    """The whole page; it refers to nothing outside of itself.

    Args:
        comparison: What to show.
        films: Pictures of runs, by curriculum.
    """
    parts = [_head(comparison)]
    for curriculum in comparison.curricula:
        parts += _curriculum(comparison, curriculum)
        parts += [_film(film) for film in (films or {}).get(curriculum, ())]
    parts.append(_legend())
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>clrl: {escape(', '.join(comparison.curricula))}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _head(comparison: Comparison) -> str:
    runs = sum(len(method.results) for method in comparison.methods)
    made = {str(dict(r.versions)): r.versions for m in comparison.methods for r in m.results}
    versions = "; ".join(", ".join(f"{k} {v}" for k, v in one.items()) for one in made.values())
    return (
        f"<h1>What is retained, and what it costs</h1>\n<p>{_count(runs, 'run')} of "
        f"{_count(len(comparison.methods), 'method')} on "
        f"{escape(', '.join(comparison.curricula))}.</p>\n"
        f'<p class="note">{escape(versions)}</p>'
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _curriculum(comparison: Comparison, name: str) -> list[str]:
    rows = comparison.rows(name)
    methods = [method for method, _ in rows]
    first = methods[0].results[0]
    protocol = ", ".join(f"{key} {value}" for key, value in first.protocol.items())
    parts = [
        f"<h2>{escape(name)}</h2>",
        f"<p>Skills in order: {escape(', '.join(first.skills))}.</p>",
        f'<p class="note">Measured with {escape(protocol)}.</p>',
        "<h3>What is kept</h3>",
        _table(rows, KEPT),
        "<h3>What it costs</h3>",
        _table(rows, COST),
        f'<p class="note">{escape(BASIS[0].upper() + BASIS[1:])}.</p>',
    ]
    if len(methods) > 1 or any(e and e.low is not None for e in rows[0][1].values()):
        parts.append(_plot("With 95 % intervals", plots.intervals(rows)))  # else the table says it
    if len(methods) > 1:
        chances = comparison.improvement(name)
        told = "Probability that a run of the row's method beats one of the column's on a skill"
        parts.append(_plot(told, plots.improvement(methods, chances)))
        parts.append(
            _plot(
                "Success against cost; the line joins what nothing beats in both",
                plots.pareto(rows),
            )
        )
    parts.append(_plot("Success after each skill, mean of the seeds", plots.matrices(rows)))
    if any(method.curves for method in methods):
        parts.append(
            _plot("Learning curves; shaded while one skill is trained", plots.curves(rows))
        )
    return parts


def _table(rows: Rows, chosen: Mapping[str, str]) -> str:
    columns = defined(chosen, rows)
    heads = "".join(
        f'<th title="{escape(COLUMNS[name])}">{escape(title)}</th>'
        for name, title in columns.items()
    )
    lines = []
    for i, (method, figures) in enumerate(rows):
        cells = [str(i + 1), method.name, ", ".join(str(r.seed) for r in method.results)]
        text = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        for name in columns:
            value, interval = shown(name, figures[name])
            text += f"<td>{escape(value)}<small>{escape(interval.strip('()'))}</small></td>"
        lines.append(f"<tr>{text}</tr>")
    body = "\n".join(lines)
    return (
        '<div class="wide"><table class="methods">\n<thead><tr><th></th><th>method</th>'
        f"<th>seeds</th>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _plot(title: str, svg: bytes) -> str:
    source = f"data:image/svg+xml;base64,{b64encode(svg).decode()}"
    return f'<h3>{escape(title)}</h3>\n<img class="plot" alt="{escape(title)}" src="{source}">'


def _film(film: Film) -> str:
    parts = [f"<h3>What it does: {escape(film.title)}</h3>"]
    if film.note:
        parts.append(f'<p class="note">{escape(film.note)}</p>')
    if film.pictures:
        moments = "".join(f"<th>{escape(m)}</th>" for m in next(iter(film.pictures.values())))
        parts.append(f'<table class="film"><thead><tr><th></th>{moments}</tr></thead><tbody>')
        for skill, strips in film.pictures.items():
            cells = "".join(_strip(f"{skill}, {m}", jpegs) for m, jpegs in strips.items())
            parts.append(f"<tr><th>{escape(skill)}</th>{cells}</tr>")
        parts.append("</tbody></table>")
    return "\n".join(parts)


def _strip(what: str, pictures: Sequence[bytes]) -> str:
    sources = (f"data:image/jpeg;base64,{b64encode(picture).decode()}" for picture in pictures)
    images = "".join(f'<img alt="{escape(what)}" src="{source}">' for source in sources)
    return f"<td>{images}</td>"


def _legend() -> str:
    return (
        "<h2>What the figures are</h2>\n<dl>"
        + _terms((KEPT | COST).get(name, name) or name for name in COLUMNS)
        + "</dl>\n"
        '<p class="note">Intervals are percentiles of 5,000 stratified bootstrap resamples, which '
        "draw runs for each skill on its own; IQM and probability of improvement as Agarwal et "
        "al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, 2021. Seconds "
        "compare only between runs that were made on one machine under the same load.</p>"
    )


def _terms(titles: Iterable[str]) -> str:
    pairs = zip(titles, COLUMNS.values(), strict=True)
    return "".join(f"<dt>{escape(title)}</dt><dd>{escape(text)}</dd>" for title, text in pairs)
