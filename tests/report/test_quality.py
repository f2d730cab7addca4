from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from counterpoise.report.facts import Quality, QualityRow
from counterpoise.report.quality import MEASURES, quality

NAMES = ("fd", "kid", "kid_error", "precision", "recall", "density", "coverage")


def measured(n: int, samples: dict | None = None, real: dict | None = None, **more: Any) -> dict[str, Any]:
    every = dict.fromkeys(NAMES, 0.5)
    floor = {"samples": every | (samples or {}), "real": every | (real or {})}
    return {"floor_n": n, "floor": floor, "warnings": [], "undefined": {}} | more


def lot(bands: dict[str, Any], space: str = "ce") -> dict[str, Any]:
    return {"space": space, "kept": 9, "val": bands, "train": bands}


def test_numbers_are_means_over_the_draws_that_define_them():
    none = measured(2, floor=None, undefined={"fd": "fewer than 5", "floor": "fewer than 5"})
    draws = [
        lot({"all": measured(10, {"fd": 1.0}, {"fd": 0.2}), "few": none, "many": none}),
        lot(
            {
                "all": measured(20, {"fd": 3.0}, {"fd": 0.4}),
                "few": measured(6, {"recall": 0.25}),
                "many": none,
            }
        ),
    ]
    (found,) = quality({"smote": draws})
    everything, many, few = found["tables"][0]["rows"]
    assert everything["n"] == 15
    assert everything["cells"]["fd"] == pytest.approx({"made": 2.0, "real": 0.3})
    assert few["cells"]["recall"] == {"made": 0.25, "real": 0.5}
    assert many["cells"]["recall"] == {"made": None, "real": None}
    assert many["error"] is None
    assert found["draws"] == 2
    assert found["notes"] == ["Fewer than 5 (many, few)."]
    assert [table["against"] for table in found["tables"]] == ["validation images", "training images"]
    assert set(found) == set(get_type_hints(Quality))
    assert set(everything) == set(get_type_hints(QualityRow))
    assert set(everything["cells"]) == set(MEASURES)


def test_a_band_that_some_draws_lack_is_a_mean_over_the_others():
    draws = [
        lot(
            {"all": measured(30), "medium": measured(20), "few": measured(4, {"fd": 9.0}, warnings=["rough"])}
        ),
        lot({"all": measured(30), "many": measured(50, {"fd": 1.0}), "medium": measured(20)}),
        lot({"all": measured(30), "many": measured(10, {"fd": 4.0}), "medium": measured(20)}),
    ]
    rows = quality({"smote": draws})[0]["tables"][0]["rows"]
    assert [row["band"] for row in rows] == ["all", "many", "medium", "few"]
    assert (rows[1]["n"], rows[1]["cells"]["fd"]["made"]) == (30, 2.5)
    assert (rows[3]["n"], rows[3]["cells"]["fd"]["made"]) == (4, 9.0)
    assert quality({"smote": draws})[0]["notes"] == ["Rough (few)."]


def test_a_warning_is_said_once_with_its_rows():
    rough, both = measured(9, warnings=["rough", "biased"]), measured(90, warnings=["biased"])
    bands = {"all": both, "medium": both, "few": rough}
    (found,) = quality({"copies": [lot(bands)] * 2, "smote": [lot(bands)] * 2})
    assert found["notes"] == ["Biased (every row).", "Rough (few)."]
    assert [row["synthesis"] for row in found["tables"][1]["rows"]] == ["copies"] * 3 + ["smote"] * 3


def test_without_samples_there_is_no_section():
    assert quality({}) == []


def test_each_space_has_its_own_tables_numbers_and_notes():
    here, there = (
        lot({"all": measured(9, {"fd": 1.0})}),
        lot({"all": measured(9, {"fd": 70.0})}, "codes of mix"),
    )
    there["val"]["all"]["warnings"] = ["rough"]
    first, second = quality({"smote": [here], "mix": [there], "copies": [here]})
    assert (first["space"], second["space"]) == ("ce", "codes of mix")
    assert [row["synthesis"] for row in first["tables"][0]["rows"]] == ["smote", "copies"]
    assert [row["cells"]["fd"]["made"] for row in second["tables"][0]["rows"]] == [70.0]
    assert (first["notes"], second["notes"]) == ([], ["Rough (all)."])
