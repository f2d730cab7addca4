from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import counterpoise.report.page as page
from counterpoise.report.facts import Facts
from counterpoise.report.page import render

ALLOWED = set(
    [
        "html",
        "head",
        "meta",
        "title",
        "link",
        "style",
        "body",
        "div",
        "nav",
        "p",
        "svg",
        "path",
        "rect",
        "circle",
        "text",
        "ol",
        "ul",
        "li",
        "a",
        "main",
        "header",
        "h1",
        "h2",
        "h3",
        "h4",
        "section",
        "figure",
        "figcaption",
        "dl",
        "dt",
        "dd",
        "b",
        "br",
        "i",
        "bdi",
        "span",
        "details",
        "summary",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "small",
        "img",
        "pre",
        "code",
        "footer",
    ]
)
VOID = {"meta", "link", "img", "br", "path", "rect", "circle"}


class Reader(HTMLParser):
    """Every tag, attribute and text of a page; notes what is closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def visible(text: str) -> str:
    return " ".join(" ".join(Reader(text.partition("</style>")[2]).words).split())


def test_the_headline_with_its_interval_comes_first(facts: dict[str, Any], pages: dict[str, str]) -> None:
    html = pages["realistic"]
    said = visible(html)
    assert facts["verdict"]["headline"] in said
    first = html.index("<h1>")
    assert first < min(
        html.index(f'<section id="{name}"') for name in ("data", "recall", "arms", "tail", "cost")
    )
    assert "Generate : interpolate" in said or "Generate: interpolate" in said


def test_everything_told_is_in_the_page(facts: dict[str, Any], pages: dict[str, str]) -> None:
    said = visible(pages["realistic"])
    expected = [row["arm"] for row in facts["verdict"]["rows"]] + list(facts["verdict"]["slices"])[1:]
    expected += [
        facts["data"],
        facts["made_at"],
        facts["fingerprint"],
        facts["cost"]["machine"],
        "2.13.0",
        "10,000",
    ]
    expected += (
        facts["verdict"]["would_change"] + facts["verdict"]["missing_variance"] + facts["audit"]["notes"]
    )
    expected += [row["reason"] for row in facts["audit"]["quarantine"]] + facts["reproduce"]["warnings"]
    expected += [
        "test/8/00190.png",
        "taken for another class: 17",
        "346 of 410",
        "copy of a training image",
        "+15.3",
    ]
    assert [text for text in expected if text.lower() not in said.lower()] == []


def test_it_is_well_formed_and_loads_nothing(pages: dict[str, str]) -> None:
    for html in pages.values():
        reader = Reader(html)
        assert reader.wrong == []
        assert reader.open == []
        assert {tag for tag, _ in reader.tags} <= ALLOWED
        for tag, attributes in reader.tags:
            assert not [
                name for name in attributes if name.startswith("on") or name in {"style", "srcset", "action"}
            ]
            assert attributes.get("src", "data:image/").startswith("data:image/")
            assert attributes.get("href", "#").startswith(("#", "data:,"))
            if tag == "img":
                assert attributes["alt"]
            if tag == "svg":
                assert attributes.get("aria-hidden") or attributes["aria-label"]
        assert not re.search(r"https?://|url\(|@import|javascript:", html)


def test_the_policy_allows_one_style_sheet_and_no_script(pages: dict[str, str]) -> None:
    html = pages["realistic"]
    policy = next(
        a["content"] for _, a in Reader(html).tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["style-src"] == f"'sha256-{digest}'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in policy
    assert "script-src" not in rules
    assert html.index("Content-Security-Policy") < html.index("<style>")


def test_hostile_names_are_text(pages: dict[str, str]) -> None:
    html = pages["hostile"]
    said = visible(html)
    for name in (
        "<img src=x onerror=alert(1)>",
        "</script><script>alert(2)</script>",
        "{{ 7 * 7 }}{% raw %}",
        "$x^2_",
    ):
        assert name in said
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", html)
    html.encode()
    once = html.count("W" * 255)
    assert once > 0  # whole in the tables; drawings shorten it
    assert not re.search(r"<text[^>]*>[^<]*W{40}", html)


def test_the_same_facts_give_the_same_bytes_and_are_not_changed(
    facts: dict[str, Any], pages: dict[str, str]
) -> None:
    before = repr(facts)
    assert render(facts) == pages["realistic"]
    assert repr(facts) == before


def test_samples_stand_above_what_real_images_score(pages: dict[str, str]) -> None:
    section = re.search(r'<section id="quality">.*?</section>', pages["realistic"], re.DOTALL)[0]
    rows = [" ".join(Reader(row).words) for row in re.findall(r"<tr>.*?</tr>", section, re.DOTALL)]
    one = " ".join(next(row for row in rows if row.startswith("interpolate all")).split())
    assert one == (
        "interpolate all 204 1.23 real 0.321 12.3 ± 4 real -1 "
        "0.91 real 0.95 0.43 real 0.89 1.07 real 0.98 0.52 real 0.93"
    )
    few = " ".join(next(row for row in rows if row.startswith("interpolate few")).split())
    assert few.startswith("interpolate few 3 – real – – real –"), "never a zero"
    said = " ".join(Reader(section).words)
    assert "means over 10 draws" in said
    assert "every number is rough (many, few)" in said
    assert section.index("validation images") < section.index("<details>")
    assert len(rows) == 4 * 4, "four tables of three rows, each with a head"


def test_every_space_has_tables_of_its_own_and_the_page_says_so(
    facts: dict[str, Any], pages: dict[str, str], undrawn: None
) -> None:
    both = visible(pages["realistic"])
    assert "These samples live in 2 spaces, each with a table of its own" in both
    assert re.search(r"In the features of ce .* In the codes of interpolate ", both)
    facts["quality"] = facts["quality"][:1]
    one = visible(render(facts))
    assert "live in" not in one
    assert "which no classifier was trained on, in the features of ce ." in one


def test_a_latent_mixture_says_whether_it_collapsed_and_shows_its_pictures(
    facts: dict[str, Any], undrawn: None
) -> None:
    def section() -> str:
        return re.search(r'<section id="mixture">.*?</section>', render(facts), re.DOTALL)[0]

    whole = section()
    said = " ".join(Reader(whole).words)
    assert facts["mixtures"][0]["sentence"] in said
    assert "0.21 nats" in said
    pictures = [a for tag, a in Reader(whole).tags if tag == "img"]
    assert [base64.b64decode(a["src"].partition(",")[2]) for a in pictures] == [
        facts["sheets"]["interpolate"][name] for name in ("reconstructions", "components")
    ]
    del facts["sheets"]
    assert "<img" not in section(), "rows that are features have no pictures"
    facts["mixtures"] = []
    assert 'id="mixture"' not in render(facts)


def test_feedback_is_told_with_its_warnings_its_gains_and_its_pictures(
    facts: dict[str, Any], pages: dict[str, str], undrawn: None
) -> None:
    section = re.search(r'<section id="feedback">.*?</figure>\s*</section>', pages["realistic"], re.DOTALL)[0]
    said = " ".join(" ".join(Reader(section).words).split())
    assert "2 teachers" in said
    assert facts["feedback"]["warnings"][0] in said
    assert facts["feedback"]["practices"][0]["sentence"] in said
    assert "It asked for 45 samples per draw; filling up takes 410, so that is 11 % of them." in said
    rows = [
        " ".join(" ".join(Reader(row).words).split())
        for row in re.findall(r"<tr>.*?</tr>", section, re.DOTALL)
    ]
    assert "plain noise unguided 391 of 400 kept 0.20 entropy 99 % mean p 0.97 3.2 – – –" in rows
    assert (
        "stronger entropy × 3 391 of 400 kept 0.50 entropy 87 % mean p 0.82 3.5 12 % no gradient 12 % "
        "+1.4 −0.1 to +2.9 +1.4 −0.1 to +2.9"
    ) in rows
    assert any(row.startswith("rounds") and row.endswith("+1.0 too few trials –") for row in rows)
    assert "no unguided samples of the same number and kind as rounds : the gain" in said
    assert "best on validation: stronger" in said
    pictures = [a for tag, a in Reader(section).tags if tag == "img"]
    assert len(pictures) == 2 * 9
    assert pictures[0]["alt"] == "sample 1 of class 9, plain noise"
    del facts["twins"]
    assert "The same noise" not in render(facts), "features are no pictures"
    assert 'id="feedback"' not in render(facts | {"feedback": {}}), "no synthesis has a tutor"


def test_any_section_may_be_missing(facts: dict[str, Any], undrawn: None) -> None:
    optional = [
        "verdict",
        "audit",
        "recalls",
        "groups",
        "confusion",
        "galleries",
        "funnel",
        "maps",
        "quality",
        "mixtures",
        "feedback",
        "prior",
        "cost",
        "reproduce",
    ]
    anchors = {
        "maps": "map",
        "mixtures": "mixture",
        "verdict": "arms",
        "audit": "data",
        "recalls": "recall",
        "confusion": "tail",
        "galleries": "pictures",
    }
    for name in optional:
        html = render({key: value for key, value in facts.items() if key not in {name, "command"}})
        reader = Reader(html)
        assert reader.wrong == []
        anchor = anchors.get(name, name)
        assert f'id="{anchor}"' not in html
        links = [a["href"] for tag, a in reader.tags if tag == "a"]
        ids = {"#" + a["id"] for _, a in reader.tags if a.get("id")}
        assert set(links) <= ids
        assert not {f"#{anchor}", f"#{name}"} & set(links)


def test_a_run_without_synthetic_arms_looks_whole(facts: dict[str, Any], undrawn: None) -> None:
    verdict = facts["verdict"]
    made = {"galleries", "funnel", "maps", "quality", "mixtures", "sheets", "feedback", "twins"}
    told = {
        **{key: value for key, value in facts.items() if key not in made},
        "verdict": {
            **{
                key: value
                for key, value in verdict.items()
                if key not in {"outcome", "arm", "missing_variance"}
            },
            "headline": "Balanced softmax is the best of eight cheap arms.",
            "recommendation": {"action": "use a cheap arm", "arm": "balanced softmax"},
            "rows": [row for row in verdict["rows"] if row["role"] in {"baseline", "opponent"}],
        },
        "audit": {
            **facts["audit"],
            "classes": [{k: v for k, v in row.items() if k != "after"} for row in facts["audit"]["classes"]],
        },
    }
    html = render(told)
    assert "Use a cheap arm" in html
    assert 'id="pictures"' not in html
    assert "ynthetic" not in visible(html).replace("Diamonds are synthetic arms", "").replace(
        "its synthetic images", ""
    )
    assert "None" not in visible(html)
    assert "nan" not in visible(html).split()


@pytest.mark.parametrize(
    ("outcome", "words"), [("helps", "Helps"), ("no evidence", "No evidence"), ("hurts", "Hurts")]
)
def test_the_badge_says_the_verdict_in_words_and_with_a_sign(outcome: str, words: str) -> None:
    html = render({"verdict": {"headline": "A sentence.", "outcome": outcome}})
    badge = re.search(r'<span class="badge [^"]*">(.*?)</span>', html, re.DOTALL)[1]
    assert words in badge
    assert "<svg" in badge


def test_an_empty_report_and_numbers_that_are_not_numbers(facts: dict[str, Any]) -> None:
    for optional in ("galleries", "prior", "cost", "funnel", "audit", "recalls"):
        facts.pop(optional)
    assert Reader(render({})).wrong == []
    facts["verdict"]["rows"][0]["slices"]["all classes"] |= {
        "mean": float("nan"),
        "low": None,
        "high": np.float64("inf"),
    }
    facts["verdict"]["rows"][1]["slices"].pop("few")
    said = visible(render(facts))
    assert "nan" not in said.lower().split()
    assert "inf" not in said.split()


def test_every_figure_has_its_table(pages: dict[str, str]) -> None:
    html = pages["realistic"]
    for section in re.findall(
        r'<section id="(?:data|recall|tail|funnel|prior|cost)".*?</section>', html, re.DOTALL
    ):
        for figure in re.findall(r"<figure.*?</figure>", section, re.DOTALL):
            assert re.search(r"<details>.*<table>.*</table>", figure, re.DOTALL)
    assert '<table class="matrix">' in html


def test_pictures_are_kept_exactly_when_tiny_and_scaled_down_when_large(facts: dict[str, Any]) -> None:
    import io

    from PIL import Image

    from counterpoise.report import pictures

    rng = np.random.Generator(np.random.PCG64(1))
    for shape in ((8, 8), (8, 8, 1), (32, 20, 3)):
        made = rng.integers(0, 256, shape, dtype=np.uint8)
        back = Image.open(io.BytesIO(base64.b64decode(pictures.uri(made).partition(",")[2])))
        np.testing.assert_array_equal(np.asarray(back), made.squeeze())
        assert pictures.uri(made.tolist()) == pictures.uri(made)
    large = rng.integers(0, 256, (400, 300, 3), dtype=np.uint8)
    assert (
        max(Image.open(io.BytesIO(base64.b64decode(pictures.uri(large).partition(",")[2]))).size)
        == pictures.LONGEST
    )


def test_a_page_stays_small(facts: dict[str, Any], pages: dict[str, str]) -> None:
    assert len(pages["realistic"].encode()) < 1_000_000
    rng = np.random.Generator(np.random.PCG64(2))
    names = [f"class number {k}" for k in range(1000)]
    arms = [row["arm"] for row in facts["verdict"]["rows"]]
    picture = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    facts["audit"] |= {
        "classes": [
            {"name": n, "train": 1300 // (k + 1), "after": 300, "val": 5, "test": 50}
            for k, n in enumerate(names)
        ]
    }
    facts["audit"] |= {
        "quarantine": [{"uri": f"train/{k}.jpg", "label": "x", "reason": "truncated"} for k in range(5000)]
    }
    facts["recalls"]["rows"] = [
        {"name": n, "count": 1000 - k, "before": 50.0, "after": 51.0} for k, n in enumerate(names)
    ]
    counts = rng.integers(0, 9, (300, 1000))
    facts["confusion"] = {
        "rows": names[-300:],
        "columns": names,
        "arms": [{"arm": a, "matrix": counts} for a in arms[:2]],
    }
    facts["prior"] = {"classes": names, "arms": [{"arm": a, "shares": [0.001] * 1000} for a in arms]}
    facts["galleries"] = [
        {"class_name": n, "real": [picture] * 12, "synthetic": [{"image": picture, "nearest": picture}] * 12}
        for n in names[:60]
    ]
    html = render(facts)
    assert len(html.encode()) < 3_000_000
    said = visible(html)
    assert "and 4,800 more" in said
    assert re.search(r"\d+ more galleries are left out", said)


def test_the_tail_keeps_its_diagonal_and_all_its_mass() -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    columns = [f"c{k}" for k in range(50)]
    matrix = rng.integers(0, 30, (5, 50)) + 500 * np.eye(5, 50, 20, dtype=int)
    told = {"rows": columns[20:25], "columns": columns, "arms": [{"arm": "a", "matrix": matrix.tolist()}]}
    tail = page._tail(told)
    shares = np.array(tail["arms"][0]["shares"])
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_allclose(np.diag(shares), np.diag(matrix[:, 20:25]) / matrix.sum(1))
    assert tail["columns"][:5] == columns[20:25]
    assert tail["columns"][-1] == "38 others"


def test_facts_are_json_but_for_their_pictures(facts: dict[str, Any]) -> None:
    assert set(facts) == set(get_type_hints(Facts))
    json.dumps({key: value for key, value in facts.items() if key not in {"galleries", "sheets", "twins"}})


def luminance(colour: np.ndarray) -> float:
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_text_colour_is_readable_on_every_ground(theme: int) -> None:
    style = (Path(page.__file__).parent / "style.css").read_text()
    block = style.split("prefers-color-scheme:dark")[theme]
    colours = {
        name: np.array([int(value[at : at + 2], 16) for at in (0, 2, 4)]) / 255
        for name, value in re.findall(r"--([\w-]+):#([0-9a-f]{6})", block)
    }
    for text, ground in itertools.product(
        ("ink", "muted", "up", "down", "flat"), ("paper", "card", "soft", "up-soft")
    ):
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for tone in ("up", "down", "flat"):
        assert contrast(colours[tone], colours[f"{tone}-soft"]) >= 4.5
    for share in np.linspace(0, 1, 11):  # the numbers on the shaded cells, see figures.cells
        alpha = 0.06 + 0.64 * share
        assert contrast(colours["ink"], alpha * colours["heat"] + (1 - alpha) * colours["card"]) >= 4.5, share
