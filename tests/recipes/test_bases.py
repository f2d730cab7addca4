"""CPU twin of inter-class mixing over other families of text-to-image models, from a folder to a report."""

import pytest
import text_to_image
from studies import fill

from counterpoise import Data, Holdout, Trials, open_source, run
from counterpoise.recipes.interclass_mix import interclass_mix

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["sdxl", "sd3"])
def test_every_family_goes_through_all_stages(kind, tmp_path):
    base = text_to_image.save(tmp_path / "base", kind=kind)
    photos = fill(tmp_path / "photos", {"apple": 14, "rose": 8})
    data = Data(open_source(str(photos)), size=16, holdout=Holdout(val=0.2, test=0.25))
    study = interclass_mix(data, Trials(2), base=str(base), strategies=("diff-mix",), smoke=True, fit_steps=2)
    found = run(study, tmp_path / "run")
    assert "diff-mix" in found.metrics["arms"]
    assert found.verdict["headline"]
    assert (tmp_path / "run" / "report.html").is_file()
