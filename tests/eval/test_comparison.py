"""Methods side by side: known answers, and the page that shows them."""

import json
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clrl.eval import plots
from clrl.eval.comparison import Comparison, Estimate, Method
from clrl.eval.page import Film, page
from clrl.eval.retention import Retention

CURVES = {"reach": [(50, 0.4), (100, 0.8), (200, 0.4)], "push": [(150, 0.5), (200, 0.9)]}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")


@pytest.fixture(scope="module")
def comparison(make: Callable[..., Retention]) -> Comparison:
    """An unprotected method that loses its first skill, and two that keep it."""
    cost = make().cost
    lost = [[[0, 0], [80, 0], [0, 90]], [[0, 0], [90, 0], [10, 100]]]
    kept = [[[0, 0], [80, 0], [80, 90]], [[0, 0], [90, 0], [90, 100]]]

    def results(successes: list[Any], **more: Any) -> tuple[Retention, ...]:
        used = more.pop("cost", {})
        return tuple(
            make(successes=rows, seed=seed, cost={**cost, **used}, **more)
            for seed, rows in enumerate(successes)
        )

    bare = {"protection_bytes": 0, "train_seconds": 540.0}
    curves, ends = (CURVES, CURVES), ([100, 200], [100, 200])
    return Comparison(
        (
            Method(
                name="none",
                curriculum="arm2",
                results=results(lost, protections=[], cost=bare),
                curves=curves,
                ends=ends,
                unprotected=True,
            ),
            Method(
                name="<ewc> & more",
                curriculum="arm2",
                results=results(kept),
                curves=curves,
                ends=ends,
                transfer=((0.0, 0.5), (0.5, 1.0)),
            ),
            Method(name="once", curriculum="arm2", results=results(kept[:1])),
        )
    )


def figures(comparison: Comparison, name: str) -> dict[str, Estimate | None]:
    return dict(next(f for method, f in comparison.rows("arm2") if method.name == name))


def test_figures_are_means_over_seeds(comparison: Comparison) -> None:
    none, ewc = (figures(comparison, name) for name in ("none", "<ewc> & more"))
    values = {k: v and round(v.value, 6) for k, v in none.items()}
    assert values["average_performance"] == 0.5
    assert values["forgetting"] == 0.4
    assert values["backward_transfer"] == -0.8
    assert values["forward_transfer"] is None
    assert values["worst_retention"] == round((0 + 1 / 9) / 2, 6)
    assert values["update_seconds"] == 450.0  # 540 s for 1,200 updates
    assert values["update_overhead"] is None
    assert ewc["update_overhead"] == pytest.approx((1000 * 100 / 1200,) * 3)
    assert ewc["forward_transfer"] == Estimate(0.5, 0.25, 0.75)
    assert ewc["forgetting"] == Estimate(0.0, 0.0, 0.0)


def test_joint_training_forgets_nothing_that_means_anything(
    make: Callable[..., Retention],
) -> None:
    method = Method(name="all", curriculum="arm2", results=(make(protections=["joint"]),))
    found = method.figures()
    assert found["average_performance"] == Estimate(0.65, None, None)
    for name in ("forgetting", "backward_transfer", "worst_retention"):
        assert found[name] is None


def test_one_seed_has_no_interval(comparison: Comparison) -> None:
    once = figures(comparison, "once")["average_performance"]
    assert once is not None
    assert once.value == pytest.approx(0.85)
    assert once.low is None
    assert once.high is None


def test_the_best_comes_first_and_beats_the_others(comparison: Comparison) -> None:
    names = [method.name for method in comparison.curricula["arm2"]]
    assert names == ["<ewc> & more", "once", "none"]
    chances = comparison.improvement("arm2")
    assert chances[0][2].value == pytest.approx((1.0 + 0.5) / 2)
    assert chances[0][2].value + chances[2][0].value == pytest.approx(1.0)


def test_text_and_json_hold_cost_beside_every_result(comparison: Comparison) -> None:
    text = str(comparison)
    assert "what is kept" in text
    assert "what it costs" in text
    assert "1.2 MB" in text
    kept, costs = text.split("what it costs")
    assert "0.900 (0.850 to 0.950)" in kept
    assert "0.900" in costs
    rows = json.loads(json.dumps(comparison.to_json()))
    assert [row["method"] for row in rows] == ["<ewc> & more", "once", "none"]
    assert rows[0]["figures"]["protection_bytes"]["value"] == 1_240_000
    assert rows[0]["better_than"].keys() == {"once", "none"}
    assert rows[1]["figures"]["iqm"] == {"value": pytest.approx(0.85), "low": None, "high": None}


class Reader(HTMLParser):
    """Every reference, and how many of each element there are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def text(comparison: Comparison) -> str:
    films = [
        Film(
            "none, seed 0", {"reach": {"before training": [b"\xff\xd8"], "at the end": [b"\xff"]}}
        ),
        Film("once, seed 0", note="No pictures: no OpenGL renderer."),
    ]
    return page(comparison, {"arm2": films})


def test_the_page_refers_to_nothing_but_itself(text: str) -> None:
    reader = Reader(text)
    assert not reader.open
    assert reader.references
    assert all(reference.startswith("data:") for reference in reader.references)
    for word in ("url(", "@import", "<script", "http:", "https:"):
        assert word not in text


def test_the_front_holds_what_nothing_beats_at_its_cost() -> None:
    cost, kept = np.array([5.0, 1.0, 1.0, 5.0, 9.0, 9.0]), np.array([0.9, 0.5, 0.7, 0.8, 0.9, 0.95])
    assert plots.unbeaten(cost, kept) == [2, 0, 5]


def test_the_page_shows_tables_plots_and_pictures(text: str) -> None:
    assert Reader(text).count["table"] == 3
    assert text.count('class="plot"') == 5
    assert text.count("data:image/jpeg") == 2
    assert "No pictures: no OpenGL renderer." in text
    assert "&lt;ewc&gt; &amp; more" in text
    assert "<ewc>" not in text


def test_the_same_comparison_gives_the_same_page(comparison: Comparison) -> None:
    assert page(comparison) == page(comparison)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_the_page_without_errors(text: str, tmp_path: Path) -> None:
    """Chromium counts what it rendered: a script that is added here reads the finished page."""
    probe = (
        "<script>onload = () => { const images = [...document.images];"
        "document.title = JSON.stringify({tables: document.querySelectorAll('table tbody').length,"
        "rows: document.querySelectorAll('.methods tbody tr').length,"
        "plots: images.filter(i => i.className == 'plot' && i.naturalWidth > 100).length,"
        "wide: document.documentElement.scrollWidth <= innerWidth,"
        "loads: performance.getEntriesByType('resource').filter("
        "r => !r.name.startsWith('data:')).length}) }</script>"
    )
    file = tmp_path / "report.html"
    file.write_text(text.replace("</body>", f"{probe}</body>"))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        "--window-size=1250,900",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
    ]
    result = subprocess.run(
        [str(CHROMIUM), *flags, f"file://{file}"], capture_output=True, text=True, check=True
    )
    title = result.stdout.partition("<title>")[2].partition("</title>")[0]
    assert json.loads(title) == {"tables": 3, "rows": 6, "plots": 5, "wide": True, "loads": 0}
    assert "CONSOLE" not in result.stderr
